package jetstream

import (
	"encoding/json"
	"fmt"
)

// apiError is JetStream's error object. Codes and texts are those of nats-server
// (server/errors.json of v2.15), since libraries compare the codes.
type apiError struct {
	Code        int    `json:"code"`
	ErrCode     int    `json:"err_code"`
	Description string `json:"description"`
}

func (e *apiError) Error() string { return e.Description }

// because returns the error with a reason, which is truncated because it may contain parts of the
// request.
func (e *apiError) because(format string, args ...any) *apiError {
	return &apiError{e.Code, e.ErrCode, fmt.Sprintf("%s: %.*s", e.Description, maxReason, fmt.Sprintf(format, args...))}
}

// maxReason is the maximum number of characters of a reason in an answer.
const maxReason = 300

var (
	errBadRequest       = &apiError{400, 10003, "bad request"}
	errUnavailable      = &apiError{503, 10008, "JetStream system temporarily unavailable"}
	errCreate           = &apiError{500, 10012, "consumer could not be created"}
	errNameInUse        = &apiError{400, 10013, "consumer name already in use"}
	errNoConsumer       = &apiError{404, 10014, "consumer not found"}
	errNoDurableName    = &apiError{400, 10016, "consumer expected to be durable but no durable name set in subject"}
	errDurableMismatch  = &apiError{400, 10017, "consumer name in subject does not match durable name in request"}
	errNotEphemeral     = &apiError{400, 10020, "consumer expected to be ephemeral but a durable name was set in request"}
	errResources        = &apiError{503, 10023, "insufficient resources"}
	errInvalidJSON      = &apiError{400, 10025, "invalid JSON"}
	errTooManyConsumers = &apiError{400, 10026, "maximum consumers limit reached"}
	errNoMessage        = &apiError{404, 10037, "no message found"}
	errStreamMismatch   = &apiError{400, 10056, "stream name in subject does not match request"}
	errNoStream         = &apiError{404, 10059, "stream not found"}
	errConfigRequired   = &apiError{400, 10078, "consumer config required"}
	errWildDeliver      = &apiError{400, 10079, "consumer deliver subject has wildcards"}
	errPushMaxWaiting   = &apiError{400, 10080, "consumer in push mode can not set max waiting"}
	errDeliverCycle     = &apiError{400, 10081, "consumer deliver subject forms a cycle"}
	errNeedsAckPolicy   = &apiError{400, 10082, "consumer requires ack policy for max ack pending"}
	errSmallHeartbeat   = &apiError{400, 10083, "consumer idle heartbeat needs to be >= 100ms"}
	errHeartbeatPull    = &apiError{400, 10088, "consumer idle heartbeat requires a push based consumer"}
	errFlowPull         = &apiError{400, 10089, "consumer flow control requires a push based consumer"}
	errFilter           = &apiError{400, 10093, "consumer filter subject is not a valid subset of the interest subjects"}
	errInvalidPolicy    = &apiError{400, 10094, "consumer delivery policy"}
	errFlowHeartbeat    = &apiError{400, 10108, "consumer with flow control also needs heartbeats"}
	errDeliverSubject   = &apiError{400, 10112, "invalid push consumer deliver subject"}
	errBackoff          = &apiError{400, 10116, "max deliver is required to be > length of backoff values"}
	errAckPending       = &apiError{400, 10121, "consumer max ack pending exceeds system limit of 65536"}
	errCreateFilter     = &apiError{400, 10131, "Consumer create request did not match filtered subject from create subject"}
	errNames            = &apiError{400, 10132, "Consumer Durable and Name have to be equal if both are provided"}
	errFilters          = &apiError{400, 10136, "consumer cannot have both FilterSubject and FilterSubjects specified"}
	errOverlap          = &apiError{400, 10138, "consumer subject filters cannot overlap"}
	errEmptyFilter      = &apiError{400, 10139, "consumer filter in FilterSubjects cannot be empty"}
	errExists           = &apiError{400, 10148, "consumer already exists"}
	errDoesNotExist     = &apiError{400, 10149, "consumer does not exist"}
	// errNotOffered refuses requests that edged does not support. nats-server has no such code;
	// this is its code of a bad request.
	errNotOffered = &apiError{400, 10003, "not offered by edged"}
)

// response is the beginning of each answer.
type response struct {
	Type  string    `json:"type"`
	Error *apiError `json:"error,omitempty"`
}

const typePrefix = "io.nats.jetstream.api.v1."

func of(kind string) response { return response{Type: typePrefix + kind + "_response"} }

func (r *request) fail(kind string, err *apiError) {
	r.api.refused.Add(1)
	answer := of(kind)
	answer.Error = err
	r.answer(answer)
}

func (r *request) answer(answer any) {
	text, err := json.Marshal(answer)
	if err != nil {
		panic(err) // strings, numbers, times and lists of them always marshal
	}
	r.client.Send(r.reply, nil, text)
}
