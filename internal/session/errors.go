package session

import (
	"errors"
	"fmt"
	"time"

	"github.com/atls-ws/atls-ws/internal/proto"
)

// Code says why something was refused.
type Code = proto.Code

// Errors that a caller may branch on.
var (
	ErrClosed   = errors.New("session closed")               // this end closed it
	ErrPeerGone = errors.New("session closed by the peer")   // the connection ended under it
	ErrDead     = errors.New("peer silent for too long")     // keepalive
	ErrDraining = errors.New("the peer asked to reconnect")  // no new streams
	ErrReplaced = errors.New("a newer session took over")    // of the same device
	errProtocol = errors.New("peer breaks the mux protocol") // yamux said so
	// ErrBeforeReady says that the peer sent too much before the session was ready.
	ErrBeforeReady = fmt.Errorf("more than %d bytes before ready", maxBeforeReady)

	errPings    = errors.New("too many pings wait for an answer")
	errStreamID = errors.New("stream opened with an id of the other end's")
	errHTTPS    = errors.New("use an http URL: the inner session is the security")
)

// RefusedError is the other end's no to a signal, a stream or the session.
type RefusedError struct {
	Code       Code
	Text       string
	RetryAfter time.Duration // 0: not said
}

func (e *RefusedError) Error() string {
	if e.Text == "" {
		return e.Code.String()
	}
	return fmt.Sprintf("%s: %s", e.Code, e.Text)
}
