package daemon

import (
	"bytes"
	"encoding/json"

	"edged/internal/tcpserver"
)

// services is what the daemon itself answers on the TCP side. The payload of an
// answer is what the control socket gives with the word json.
func (d *daemon) services() []tcpserver.Service {
	asJSON := func(answer any) []byte {
		text, err := json.Marshal(answer)
		if err != nil {
			panic(err) // these answers hold strings, numbers and lists of them
		}
		return text
	}
	return []tcpserver.Service{
		{Name: "echo", Subject: "edged.echo", Answer: bytes.Clone},
		{Name: "status", Subject: "edged.status", Answer: func([]byte) []byte { return asJSON(d.status()) }},
		{Name: "lists", Subject: "edged.lists", Answer: func([]byte) []byte { return asJSON(d.listsAnswer()) }},
	}
}
