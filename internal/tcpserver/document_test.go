package tcpserver

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"edged/internal/auth"
)

// The document's numbers are those in force, which other tests check.
func TestTheSecurityDocumentHasTheBounds(t *testing.T) {
	data, err := os.ReadFile("../../docs/SECURITY.md")
	if err != nil {
		t.Fatal(err)
	}
	doc := strings.Join(strings.Fields(string(data)), " ")

	for _, want := range []string{
		fmt.Sprintf("At most %d clients wait for that", auth.MaxHashes),
		fmt.Sprintf("At most %d clients wait for a step", auth.MaxHandshakes),
		fmt.Sprintf("more than %d, or %d in a TLS handshake, would have waited", auth.MaxHashes, auth.MaxHandshakes),
		fmt.Sprintf("at least %d and at most %d,%03d connections", leastShare, mostShare/1000, mostShare%1000),
		fmt.Sprintf("| past subscriptions of a client that can still acknowledge | %d a name |", keptMembers),
		fmt.Sprintf("| a queue name, a subscription's number; tokens of a subject | %d bytes; %d |", maxName, maxTokens),
		fmt.Sprintf("| records of TLS that a client does not take | %d KiB |", maxWaiting>>10),
	} {
		if !strings.Contains(doc, want) {
			t.Errorf("docs/SECURITY.md does not have %q", want)
		}
	}
}
