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

// serve executes the commands that arrive on a connection. It holds mu, except while
// it waits for bytes: as in Redis, commands that were read together are executed
// together.
func (r *Redis) serve(c *client) {
	r.mu.Lock()
	defer r.mu.Unlock()
	defer r.left(c)
	in := bufio.NewReaderSize(input{r, c}, readSize)
	for !c.gone {
		words, err := readCommand(in)
		if errors.Is(err, errProtocol) {
			c.error("ERR Protocol error")
		}
		if err != nil {
			break
		}
		if len(words) > 0 {
			r.executed++
			r.execute(c, words)
		}
	}
	c.flush()
}

// left forgets a client whose connection has ended. mu is held.
func (r *Redis) left(c *client) {
	c.conn.Close()
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

// input reads from a client's connection, without mu. The replies to the commands
// that were read before are sent first.
type input struct {
	r *Redis
	c *client
}

func (in input) Read(p []byte) (int, error) {
	in.c.flush()
	in.r.mu.Unlock()
	n, err := in.c.conn.Read(p)
	in.r.mu.Lock()
	if in.c.gone { // nothing more is executed
		return 0, net.ErrClosed
	}
	return n, err
}

// errProtocol is the error of bytes that are not a command.
var errProtocol = errors.New("not a command")

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
