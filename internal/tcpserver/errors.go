package tcpserver

import "fmt"

// The texts of -ERR are listed here and in docs/PROTOCOL.md; a test compares the two. They are
// nats-server's texts (server/errors.go, parser.go and client.go of v2.15), because client
// libraries compare them.

// violation is an error that ends a connection.
type violation string

func (v violation) Error() string { return string(v) }

const (
	errUnknownOperation violation = "Unknown Protocol Operation"
	errControlLine      violation = "maximum control line exceeded"
	errPayload          violation = "Maximum Payload Violation"
	errAuthorization    violation = "Authorization Violation"
	errAuthTimeout      violation = "Authentication Timeout"
	errConnections      violation = "maximum connections exceeded"
	errStale            violation = "Stale Connection"
	errHeaders          violation = "message headers not supported"
	errNoResponders     violation = "no responders requires headers support"
	errClientProtocol   violation = "invalid client protocol"
)

// refusal is the reason, a format, why a command was not executed; the connection goes on.
type refusal string

const (
	errSubject        refusal = "Invalid Subject"
	errPublishSubject refusal = "Invalid Publish Subject"
	errSubscriptions  refusal = "maximum subscriptions exceeded"
	errPublish        refusal = "Permissions Violation for Publish to %q"
	errReply          refusal = "Permissions Violation for Publish with Reply of %q"
	errSubscribe      refusal = "Permissions Violation for Subscription to %q"
	errSubscribeQueue refusal = "Permissions Violation for Subscription to %q using queue %q"
	errTokens         refusal = "Permissions Violation for Subscription to %q, too many tokens"
	errName           refusal = "Permissions Violation for Subscription to %q, name too long"
)

// refuse tells the client that a command was not executed.
func (c *client) refuse(why refusal, args ...any) {
	c.send(errLine(fmt.Sprintf(string(why), args...)))
}

func errLine[T string | violation](text T) string { return "-ERR '" + string(text) + "'\r\n" }
