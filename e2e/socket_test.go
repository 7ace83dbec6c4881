//go:build e2e

package e2e

import (
	"encoding/json"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// The service manager holds the port: the first connection starts the server,
// which takes the socket over.
func TestSocketOfTheServiceManager(t *testing.T) {
	t.Parallel()
	activate, err := exec.LookPath("systemd-socket-activate")
	if err != nil {
		missing(t, "systemd-socket-activate")
	}
	s := newSite(t)
	s.addr = "127.0.0.1:" + freePort(t)
	args := append([]string{"-l", s.addr, "--fdname=outer", exe}, s.serverArgs(false)...)
	c := start(t, "socket-activate", exec.Command(activate, args...))
	await(t, c, "Listening on")
	if strings.Contains(c.Log(), "msg=listening") {
		t.Error("the server runs before anybody has connected")
	}
	start(t, "device", exec.Command(exe, s.deviceArgs("ws://"+s.addr+path)...))
	await(t, c, "socket of the service manager", s.addr)
	s.ready()
}

// A device tells locally whether it is connected, also to scripts.
func TestDeviceStatus(t *testing.T) {
	t.Parallel()
	s := newSite(t).serve(true)
	state := s.file("state")
	if r := run(t, nil, "device", "status", "--state", state); r.code != 1 {
		t.Errorf("of no device: exit %d", r.code)
	}
	startDevice(t, s, "--state", state)
	s.ready()
	var r result
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		if r = run(t, nil, "device", "status", "--state", state); r.code == 0 {
			break
		}
	}
	contains(t, string(r.stdout), "connected", "yes, since", deviceID, "websocket", "not verified")
	var told struct {
		Connected bool
		Device    string
	}
	if err := json.Unmarshal(must(t, nil, "device", "status", "--state", state, "--json"), &told); err != nil || !told.Connected || told.Device != deviceID {
		t.Errorf("%+v, %v", told, err)
	}
	s.server.Stop(grace)
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		if r = run(t, nil, "device", "status", "--state", state); r.code != 0 && !strings.Contains(r.stderr, "not connected yet") {
			break
		}
	}
	r.fails(t, 1, "not connected")
	contains(t, string(r.stdout), "no, since", "last error", "next try")
}
