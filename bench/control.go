package main

import (
	"fmt"
	"io"
	"net"
	"strings"
	"time"
)

// command gives edged a command on its control socket.
func command(server *process, line string) error {
	conn, err := net.Dial("unix", server.control)
	if err != nil {
		return err
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := io.WriteString(conn, line+"\n"); err != nil {
		return err
	}
	conn.(*net.UnixConn).CloseWrite()
	answer, err := io.ReadAll(conn)
	if err != nil {
		return err
	}
	if !strings.HasSuffix(string(answer), "OK\n") {
		return fmt.Errorf("edged answers %q to %s", answer, line)
	}
	return nil
}
