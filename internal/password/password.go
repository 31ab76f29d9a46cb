// Package password handles the bcrypt hashes that edged accepts in place of passwords and tokens:
// it recognizes hashes, checks their cost, and compares passwords with them.
package password

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"golang.org/x/crypto/bcrypt"
)

// MinCost and MaxCost bound the cost of a hash. One step doubles the time that a login
// takes: a cost of 16 takes seconds on an edge box, the highest one of bcrypt months.
const (
	MinCost = bcrypt.MinCost // 4
	MaxCost = 16
)

// form is the form of a bcrypt hash: version, cost, and 22 characters of salt followed by 31 of
// checksum (golang.org/x/crypto/bcrypt).
var form = regexp.MustCompile(`^\$2[aby]\$(\d\d)\$[./A-Za-z0-9]{53}$`)

// Cost returns the cost of a bcrypt hash; ok reports whether s is one.
func Cost(s string) (cost int, ok bool) {
	found := form.FindStringSubmatch(s)
	if found == nil {
		return 0, false
	}
	cost, err := strconv.Atoi(found[1])
	return cost, err == nil
}

// Allowed reports whether s is a bcrypt hash with a cost from MinCost to MaxCost.
func Allowed(s string) bool {
	cost, ok := Cost(s)
	return ok && MinCost <= cost && cost <= MaxCost
}

// Matches reports whether hash is the hash of given. It takes as long as the cost of hash demands.
func Matches(hash, given string) bool {
	return bcrypt.CompareHashAndPassword([]byte(hash), []byte(given)) == nil
}

// Decoy returns a string in the form of a bcrypt hash. Matches takes as long for it as for
// a hash of that cost.
func Decoy(cost int) string { return fmt.Sprintf("$2a$%02d$%s", cost, strings.Repeat(".", 53)) }

// Hash returns a bcrypt hash of a password of at most 72 bytes.
func Hash(password string) (string, error) {
	hash, err := bcrypt.GenerateFromPassword([]byte(password), bcrypt.DefaultCost)
	return string(hash), err
}
