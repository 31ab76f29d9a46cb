//go:build !race

package batch

// poisons tells whether memory that is given back is overwritten, so that tests
// find who still uses it.
const poisons = false
