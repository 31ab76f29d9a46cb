// Package nearest finds the known name that a misspelled one most likely meant, for messages that
// ask "did you mean …?".
package nearest

// Name returns the known name that is nearest to name, the first one if several are. It returns the
// empty string if none is near: one slip is allowed, or one for each three bytes of the known name.
func Name(name string, known []string) (nearest string) {
	best := 0
	for _, k := range known {
		allowed := max(1, len(k)/3)
		if len(name) > len(k)+allowed || len(k) > len(name)+allowed {
			continue // so that the time does not depend on name's length
		}
		if d := slips(name, k); d <= allowed && (nearest == "" || d < best) {
			nearest, best = k, d
		}
	}
	return nearest
}

// slips returns the number of slips that turn a into b: bytes inserted, deleted, replaced or
// exchanged with their neighbour (the optimal string alignment distance).
func slips(a, b string) int {
	// rows[0][j] is the distance of a[:i] and b[:j]; rows[1] and rows[2] belong to a[:i-1] and
	// a[:i-2].
	var rows [3][]int
	for r := range rows {
		rows[r] = make([]int, len(b)+1)
	}
	for j := range rows[0] {
		rows[0][j] = j
	}

	for i := 1; i <= len(a); i++ {
		rows[0], rows[1], rows[2] = rows[2], rows[0], rows[1]
		rows[0][0] = i
		for j := 1; j <= len(b); j++ {
			replaced := rows[1][j-1]
			if a[i-1] != b[j-1] {
				replaced++
			}
			d := min(replaced, rows[1][j]+1, rows[0][j-1]+1)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				d = min(d, rows[2][j-2]+1)
			}
			rows[0][j] = d
		}
	}
	return rows[0][len(b)]
}
