//go:build long

package sim

import "testing"

// TestLongScenarios plays those of days, which take a minute or more.
func TestLongScenarios(t *testing.T) { passes(t, "scenarios/long/*.txt") }
