package fleet

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"path"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/atls-ws/atls-ws/internal/command"
	"github.com/atls-ws/atls-ws/internal/proto"
	"github.com/atls-ws/atls-ws/server"
)

const (
	hooksAtOnce = 64
	hookTimeout = 30 * time.Second
	hookAnswer  = 64 << 10 // bytes that are read of a hook's answer
	deviceIDKey = "Atls-Device"
)

// Hook gets the signals of devices whose names match, after they are stored.
// Either Command or URL is set.
type Hook struct {
	Name    string        // a pattern as in path.Match
	Command []string      // data on standard input; exit status 0 acks with the last line of standard output
	URL     string        // gets a POST, a CloudEvent in binary mode; 2xx acks with the body
	Timeout time.Duration // 30 s
}

// newHookClient asks the hooks themselves: through no proxy, and nowhere else
// that they point to.
func newHookClient() *http.Client {
	return &http.Client{
		Transport:     &http.Transport{MaxIdleConnsPerHost: hooksAtOnce, IdleConnTimeout: time.Minute},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// FromDevice is the handler of every signal that a device sends: it stores the
// signal, and hands it to the first hook whose pattern matches, whose answer is
// the device's. Without one, that it is stored acks it. A signal that comes
// again because its ack was lost is stored once, and goes to the hook again.
func (f *Fleet) FromDevice(ctx context.Context, sig server.Signal) (reply string, err error) {
	s, ok := server.FromContext(ctx)
	if !ok {
		return "", errors.New("no session")
	}
	m := nats.NewMsg(cloudSubject + "." + token(s.Device()) + "." + token(sig.Name))
	setSignal(m, &sig)
	m.Header.Set(deviceIDKey, s.Device())
	m.Header.Set(jetstream.MsgIDHeader, hex.EncodeToString(sig.ID[:])+"."+token(s.Device()))
	if err := f.store.room(); err != nil {
		return "", &server.RefusedError{Code: server.Busy, Text: "the server cannot store it now"}
	}
	if err := f.store.publish(ctx, m); err != nil {
		f.log.Warn("signal of a device is not stored", "device", s.Device(), "signal", sig.Name, "err", err)
		return "", &server.RefusedError{Code: server.Busy, Text: "the server cannot store it now"}
	}
	for i := range f.cfg.Hooks {
		h := &f.cfg.Hooks[i]
		if ok, _ := path.Match(h.Name, sig.Name); !ok {
			continue
		}
		select {
		case f.hooking <- struct{}{}:
			defer func() { <-f.hooking }()
		case <-ctx.Done():
			return "", ctx.Err()
		}
		return f.call(ctx, h, s.Device(), &sig)
	}
	return "", nil
}

func (f *Fleet) call(ctx context.Context, h *Hook, device string, sig *server.Signal) (reply string, err error) {
	timeout := h.Timeout
	if timeout <= 0 {
		timeout = hookTimeout
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	if len(h.Command) > 0 {
		reply, err = command.Run(ctx, &command.Options{Args: h.Command, Stdin: sig.Data, Timeout: timeout, Env: []string{
			"ATLS_DEVICE=" + device, "ATLS_SIGNAL_NAME=" + sig.Name, "ATLS_SIGNAL_ID=" + hex.EncodeToString(sig.ID[:]),
			"ATLS_CONTENT_TYPE=" + command.Printable(sig.ContentType),
		}})
	} else {
		reply, err = f.post(ctx, h.URL, device, sig)
	}
	if err != nil {
		f.log.Warn("hook refuses a signal", "hook", h.Name, "device", device, "signal", sig.Name, "err", err)
	}
	return reply, err
}

// post hands the signal over as a CloudEvent 1.0 in the binary mode of its HTTP
// binding: attributes are headers, the data is the body.
func (f *Fleet) post(ctx context.Context, url, device string, sig *server.Signal) (reply string, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(sig.Data))
	if err != nil {
		return "", err
	}
	for k, v := range map[string]string{
		"ce-specversion": "1.0", "ce-id": hex.EncodeToString(sig.ID[:]), "ce-type": sig.Name, "ce-source": "/devices/" + device,
		"ce-time": time.Now().UTC().Format(time.RFC3339Nano),
	} {
		req.Header.Set(k, percent(v))
	}
	if sig.ContentType != "" {
		req.Header.Set("Content-Type", command.Printable(sig.ContentType))
	}
	resp, err := f.hooks.Do(req)
	if err != nil {
		return "", errors.New("the hook does not answer")
	}
	defer func() { _ = resp.Body.Close() }()
	body, _ := io.ReadAll(io.LimitReader(resp.Body, hookAnswer))
	text := command.Printable(string(body))
	if resp.StatusCode/100 != 2 {
		if text == "" {
			text = resp.Status
		}
		return "", &server.RefusedError{Code: proto.Refused, Text: text}
	}
	return text, nil
}

// percent encodes what the binding does not allow in a header as it is.
func percent(s string) string {
	var b strings.Builder
	for i := range len(s) {
		if c := s[i]; c <= ' ' || c == '"' || c == '%' || c > '~' {
			fmt.Fprintf(&b, "%%%02X", c)
		} else {
			b.WriteByte(c)
		}
	}
	return b.String()
}
