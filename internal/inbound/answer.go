package inbound

import (
	"encoding/json"
	"fmt"
)

// pubAck is the answer to a publisher, as JetStream's clients read it
// (PubAck and APIError in nats.go).
type pubAck struct {
	Error  *apiError `json:"error,omitempty"`
	Stream string    `json:"stream"`
	Seq    uint64    `json:"seq,omitempty"` // number of items that this process has written to the list

	Duplicate bool `json:"duplicate,omitempty"` // not written, because an item with the same id was
}

type apiError struct {
	Code        int    `json:"code"`     // as in HTTP
	ErrCode     int    `json:"err_code"` // see below
	Description string `json:"description"`
}

// The codes that nats-server uses in these cases (server/errors.json of v2.15).
const (
	unavailable = 10008
	noResources = 10023
	storeFailed = 10077
)

// success returns the answer for the item that was just counted. Writer.mu is held.
func (l *list) success() []byte {
	return marshal(pubAck{Stream: l.Key, Seq: l.stats.Written})
}

// duplicate returns the answer for an item that is not written because one with the same id was.
func (l *list) duplicate(seq uint64) []byte {
	return marshal(pubAck{Stream: l.Key, Seq: seq, Duplicate: true})
}

func (l *list) failure(errCode int, why string) []byte {
	description := fmt.Sprintf("list %q: %s", l.Key, why)
	return marshal(pubAck{Stream: l.Key, Error: &apiError{503, errCode, description}})
}

func marshal(a pubAck) []byte {
	text, err := json.Marshal(a)
	if err != nil {
		panic(err) // strings and numbers always marshal
	}
	return text
}
