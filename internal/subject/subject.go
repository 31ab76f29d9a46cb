// Package subject knows the subjects of the NATS protocol: which ones are valid, and which literal
// subjects a pattern with wildcards matches.
//
// A subject is a sequence of tokens separated by dots. No token is empty or contains white space.
// The token "*" matches any one token; the last token may be ">", which matches one or more. A
// subject with such a token is a pattern, every other subject is a literal: the asterisk of "a*" is
// a character like any other (https://docs.nats.io/nats-concepts/subjects).
//
// Valid, Literal, Matches and Overlap agree with nats-server v2.15 (server/sublist.go:
// isValidSubject, subjectIsLiteral, isSubsetMatch, SubjectsCollide). But here subjects are always
// UTF-8 without NUL, which isValidSubject checks only on request. The functions that the server
// calls for each message do not allocate.
package subject

import (
	"bytes"
	"errors"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Valid reports whether s is a subject that a client may subscribe to, and whether
// it has wildcards.
func Valid(s []byte) (valid, wild bool) {
	if len(s) == 0 || !utf8.Valid(s) {
		return false, false
	}

	start := 0
	for i := 0; i <= len(s); i++ {
		if i < len(s) && s[i] != '.' {
			if s[i] > ' ' {
				continue // nearly all characters
			}
			switch s[i] {
			case ' ', '\t', '\r', '\n', '\f', 0:
				return false, false
			}
			continue
		}
		switch token := s[start:i]; {
		case len(token) == 0:
			return false, false
		case len(token) == 1 && token[0] == '*':
			wild = true
		case len(token) == 1 && token[0] == '>':
			if i < len(s) {
				return false, false
			}
			wild = true
		}
		start = i + 1
	}

	return true, wild
}

// Literal reports whether s is a subject that a client may publish to.
func Literal(s []byte) bool {
	valid, wild := Valid(s)
	return valid && !wild
}

// Check explains why s should not be in a configuration. It is stricter than Valid: it also refuses
// control characters, every kind of white space, and wildcards that are only a part of a token,
// which are most likely mistakes. Its error is the predicate of a sentence about s: "has an empty
// part between dots".
func Check(s string) error {
	unfit := func(r rune) bool { return unicode.IsSpace(r) || unicode.IsControl(r) }
	tokens := strings.Split(s, ".")
	switch {
	case slices.Contains(tokens, ""):
		return errors.New("has an empty part between dots")
	case strings.ContainsFunc(s, unfit):
		return errors.New("has a space or a control character in it")
	case !utf8.ValidString(s):
		return errors.New("is not UTF-8")
	}

	for i, token := range tokens {
		if len(token) > 1 && strings.ContainsAny(token, "*>") {
			return errors.New("has a wildcard that is only a piece of the part between dots")
		}
		if token == ">" && i < len(tokens)-1 {
			return errors.New("has a > before its end")
		}
	}
	return nil
}

// Matches reports whether pattern matches s. If s has wildcards itself, pattern must match every
// literal that s matches.
func Matches(pattern, s string) bool {
	for {
		p, prest, pmore := strings.Cut(pattern, ".")
		t, srest, smore := strings.Cut(s, ".")
		if p == ">" && !pmore {
			return true
		}
		if p != "*" && p != t || t == ">" || pmore != smore {
			return false
		}
		if !pmore {
			return true
		}
		pattern, s = prest, srest
	}
}

// Overlap reports whether both patterns match some common literal.
func Overlap(a, b string) bool {
	for {
		s, arest, amore := strings.Cut(a, ".")
		t, brest, bmore := strings.Cut(b, ".")
		if s == ">" || t == ">" {
			return true
		}
		if s != t && s != "*" && t != "*" || amore != bmore {
			return false
		}
		if !amore {
			return true
		}
		a, b = arest, brest
	}
}

// Tokens returns the number of tokens of s.
func Tokens(s string) int { return strings.Count(s, ".") + 1 }

// Cut cuts the first token off s; more reports whether another one follows.
func Cut(s []byte) (token, rest []byte, more bool) {
	if i := bytes.IndexByte(s, '.'); i >= 0 {
		return s[:i], s[i+1:], true
	}
	return s, nil, false
}

// Token returns name as a single token of a literal: every character that a token
// cannot contain, or that would make it a wildcard, becomes an underscore.
func Token(name string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == '.', r == '*', r == '>', r == utf8.RuneError, unicode.IsSpace(r), unicode.IsControl(r):
			return '_'
		}
		return r
	}, name)
}
