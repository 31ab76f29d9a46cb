package redis

import (
	"bufio"
	"errors"
	"io"
	"net"
	"slices"
	"strconv"

	"github.com/alicebob/miniredis/v2/server"
)

func newClient(conn net.Conn) *client {
	c := &client{conn: conn}
	c.peer = server.NewPeer(bufio.NewWriter(&c.out))
	return c
}

// readSize is how many bytes Redis reads from a connection at once.
const readSize = 16 << 10

// serve executes the commands that arrive on a connection.
func (r *Redis) serve(c *client) {
	defer r.left(c)
	in := bufio.NewReaderSize(input{r, c}, readSize)
	for {
		words, err := readCommand(in)
		if err != nil {
			r.protocolError(c, err)
			return
		}
		if len(words) > 0 && !r.executeFor(c, words) {
			return
		}
	}
}

// executeFor executes a command that arrived on a connection, and reports whether
// the client may send more.
func (r *Redis) executeFor(c *client, words []string) (more bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if c.gone {
		return false
	}
	r.executed++
	r.execute(c, words)
	if c.gone { // QUIT
		c.flush()
	}
	return !c.gone
}

// protocolError tells the client that its bytes are not RESP, if that is the error.
func (r *Redis) protocolError(c *client, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if errors.Is(err, errProtocol) && !c.gone {
		c.error("ERR " + err.Error())
		c.flush()
	}
}

// left forgets a client whose connection has ended.
func (r *Redis) left(c *client) {
	c.conn.Close()
	r.mu.Lock()
	defer r.mu.Unlock()
	c.gone = true
	r.clients = slices.DeleteFunc(r.clients, func(x *client) bool { return x == c })
	r.tracking.forget(c)
}

// flush sends the replies. mu is held.
func (c *client) flush() {
	if c.out.Len() > 0 {
		c.conn.Write(c.out.Bytes()) // if it fails, so does the next read
		c.out.Reset()
	}
}

// input reads from a client's connection. Before each read it sends the replies, so
// those to commands that arrived together leave together.
type input struct {
	r *Redis
	c *client
}

func (in input) Read(p []byte) (int, error) {
	in.r.mu.Lock()
	in.c.flush()
	in.r.mu.Unlock()
	return in.c.conn.Read(p)
}

// errProtocol is the error of bytes that are not a command.
var errProtocol = errors.New("Protocol error")

// The bounds of a command, as in Redis.
const (
	maxWords = 1 << 20
	maxWord  = 512 << 20 // bytes
)

// readCommand reads an array of strings. There are no inline commands.
func readCommand(in *bufio.Reader) ([]string, error) {
	n, err := readHeader(in, '*', maxWords)
	if err != nil {
		return nil, err
	}
	words := make([]string, 0, min(n, 1024))
	for range n {
		size, err := readHeader(in, '$', maxWord)
		if err != nil {
			return nil, err
		}
		word, err := readWord(in, size)
		if err != nil {
			return nil, err
		}
		words = append(words, word)
	}
	return words, nil
}

// readHeader reads a line with a number that kind precedes.
func readHeader(in *bufio.Reader, kind byte, most int) (int, error) {
	line, err := in.ReadSlice('\n')
	if err == bufio.ErrBufferFull {
		return 0, errProtocol
	}
	if err != nil {
		return 0, err
	}
	if len(line) < 4 || line[0] != kind || line[len(line)-2] != '\r' {
		return 0, errProtocol
	}
	digits := string(line[1 : len(line)-2])
	n, err := strconv.Atoi(digits)
	if err != nil || n < 0 || n > most || strconv.Itoa(n) != digits { // Atoi takes "+1" and "01" too
		return 0, errProtocol
	}
	return n, nil
}

// readWord reads a string of size bytes, and the line end after it.
func readWord(in *bufio.Reader, size int) (string, error) {
	var word []byte
	var err error
	if size+2 <= readSize {
		word, err = in.Peek(size + 2)
		defer in.Discard(len(word))
	} else {
		word = make([]byte, size+2)
		_, err = io.ReadFull(in, word)
	}
	if err != nil {
		return "", err
	}
	if word[size] != '\r' || word[size+1] != '\n' {
		return "", errProtocol
	}
	return string(word[:size]), nil
}
