package daemon

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	nats_server "github.com/nats-io/nats-server/v2/server"

	"github.com/atls-ws/atls-ws/client"
	"github.com/atls-ws/atls-ws/internal/config"
	"github.com/atls-ws/atls-ws/internal/daemon/admin"
	"github.com/atls-ws/atls-ws/internal/fault"
	"github.com/atls-ws/atls-ws/internal/pki"
)

// cluster is several daemons that share a NATS, a CA and nothing else.
type cluster struct {
	t    *testing.T
	ca   *pki.CA
	dir  string // of the CA's certificate
	nats string // host:port, TLS
	node map[string]*site
}

func newCluster(t *testing.T) *cluster {
	t.Helper()
	c := &cluster{t: t, ca: must[*pki.CA](t)(pki.NewCA("CA")), dir: shortDir(t), node: map[string]*site{}}
	if err := c.ca.Write(c.dir, false); err != nil {
		t.Fatal(err)
	}
	pair := must[*pki.Pair](t)(c.ca.Server([]string{"127.0.0.1"}, 0))
	n := must[*nats_server.Server](t)(nats_server.NewServer(&nats_server.Options{
		Host: "127.0.0.1", Port: nats_server.RANDOM_PORT, JetStream: true, StoreDir: c.dir, NoSigs: true, NoLog: true,
		TLSConfig: &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{must[tls.Certificate](t)(pair.TLS())}}, TLSTimeout: 10,
	}))
	n.Start()
	t.Cleanup(func() { n.Shutdown(); n.WaitForShutdown() })
	if !n.ReadyForConnections(20 * time.Second) {
		t.Fatal("NATS does not start")
	}
	c.nats = n.Addr().String()
	return c
}

// start starts the node of that name; prepare, which may be nil, may have it go
// other ways than straight to NATS, and the others to it.
func (c *cluster) start(name string, prepare func(*config.Server)) *site {
	c.t.Helper()
	s := startTrusting(c.t, c.ca, func(cfg *config.Server, dir string) {
		pair := must[*pki.Pair](c.t)(c.ca.Node(name, 0))
		if err := pair.Write(dir, "node", false); err != nil {
			c.t.Fatal(err)
		}
		cfg.Cluster = config.Cluster{Node: name, Listen: "127.0.0.1:0",
			Cert: pki.CertPath(dir, "node"), Key: pki.KeyPath(dir, "node"), CA: pki.CertPath(c.dir, pki.CAFile)}
		cfg.NATS.URL, cfg.NATS.CA = "tls://"+c.nats, pki.CertPath(c.dir, pki.CAFile)
		cfg.Data, cfg.Groups = filepath.Join(dir, "none"), config.Groups{"pumps": {Devices: []string{"pump-*"}}}
		if prepare != nil {
			prepare(cfg)
		}
	}, func(*Options) {})
	c.node[name] = s
	return s
}

// know waits until each node has heard that the device is at one of them.
func (c *cluster) know(device, at string) {
	c.t.Helper()
	for name, s := range c.node {
		eventually(c.t, "node "+name+" hears that "+device+" is at "+at, func() bool {
			d, err := s.admin.Device(c.t.Context(), device)
			return err == nil && d.Connected && d.Session.Node == at
		})
	}
}

func TestEveryNodeTellsOfAndDisconnectsADeviceOfAnother(t *testing.T) {
	c := newCluster(t)
	for _, name := range []string{"a", "b", "c"} {
		c.start(name, nil)
	}
	ca := c.node["c"]
	sess := c.node["b"].connect("pump-7", nil)
	c.know("pump-7", "b")
	d := must[*admin.DeviceDetail](t)(ca.admin.Device(t.Context(), "pump-7"))
	if d.Session.Session != sess.ID() || d.Software != "test" || d.Session.Address == "" || d.Counts.Sessions != 1 || d.LastSeen.IsZero() {
		t.Errorf("%+v, session %+v", d, d.Session)
	}
	if _, body := ca.atAdmin("/"); !strings.Contains(body, `<dd id="connected">1</dd>`) || !strings.Contains(body, `>pump-7</a></td><td>b</td>`) {
		t.Errorf("the fleet's page: %s", body)
	}
	if _, body := ca.atAdmin("/devices/pump-7"); !strings.Contains(body, "<dt>node</dt><dd>b</dd>") {
		t.Errorf("the device's page: %s", body)
	}
	if g := must[*admin.GroupDetail](t)(ca.admin.Group(t.Context(), "pumps")); g.Connected != 1 {
		t.Errorf("group: %+v", g)
	}
	gone := must[*admin.Disconnected](t)(c.node["a"].admin.Disconnect(t.Context(), "pump-7", "move along"))
	<-sess.Done()
	if gone.Sessions != 1 || !strings.Contains(sess.Err().Error(), "move along") {
		t.Errorf("%+v, the session ended with %v", gone, sess.Err())
	}
	c.node["b"].log.match(t, `msg="device was disconnected" device=pump-7 by="node a" text="move along"`)
	var said *admin.OutcomeError
	eventually(t, "the device's entry has ended", func() bool {
		_, err := c.node["a"].admin.Disconnect(t.Context(), "pump-7", "")
		return errors.As(err, &said) && said.State == admin.NotConnected
	})
	if d := must[*admin.DeviceDetail](t)(ca.admin.Device(t.Context(), "pump-7")); d.Connected || d.Session != nil {
		t.Errorf("%+v", d)
	}
}

// A stream through a node to a device of another does not keep it from ending.
func TestNodeEndsWithStreamsToDevicesOfOthers(t *testing.T) {
	c := newCluster(t)
	a, b := c.start("a", nil), c.start("b", nil)
	mux := new(client.Mux)
	l := must[net.Listener](t)(mux.Listen("quiet"))
	defer func() { _ = l.Close() }()
	b.connect("d", mux)
	c.know("d", "b")
	conn := must[*admin.Conn](t)(a.admin.Dial(t.Context(), "d", "quiet"))
	defer func() { _ = conn.Close() }()
	there := must[net.Conn](t)(l.Accept())
	defer func() { _ = there.Close() }()
	if err := a.stop(); err != nil {
		t.Error(err)
	}
	for what, conn := range map[string]net.Conn{"operator": conn, "device": there} {
		if _, err := conn.Read(make([]byte, 1)); err == nil || errors.Is(err, io.EOF) {
			t.Errorf("the %s's end: %v", what, err)
		}
	}
}

// A node that stands still is noticed by both ends of a stream through it, under
// load too, and by who asks it for something; what is said names it.
func TestNodeThatStandsStillIsNoticed(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	short := func(cfg *config.Server) { cfg.Limits.Keepalive = time.Second }
	way := must[*fault.Proxy](t)(fault.Listen("", func(int) fault.Plan { return fault.Plan{} }))
	t.Cleanup(way.Close)
	a := c.start("a", short)
	b := c.start("b", func(cfg *config.Server) { short(cfg); cfg.Cluster.Advertise = way.Addr() })
	way.To(b.log.match(t, `msg="listening for nodes" addr=(\S+)`))
	mux := new(client.Mux)
	l := must[net.Listener](t)(mux.Listen("x"))
	defer func() { _ = l.Close() }()
	b.connect("d", mux)
	c.know("d", "b")

	var wg sync.WaitGroup
	for _, direction := range []string{"up", "down", "idle"} {
		conn := must[*admin.Conn](t)(a.admin.Dial(t.Context(), "d", "x"))
		there := must[net.Conn](t)(l.Accept())
		from, to := net.Conn(conn), there
		switch direction {
		case "up": // and nothing is to come back: only its sender is still there
			_ = there.(interface{ CloseWrite() error }).CloseWrite()
		case "down":
			_ = conn.CloseWrite()
			from, to = there, conn
		}
		wg.Go(func() {
			defer func() { _ = from.Close() }()
			_, err := from.Write([]byte("x"))
			for err == nil && direction != "idle" {
				_, err = from.Write(make([]byte, 64<<10))
			}
			if err == nil {
				_, err = from.Read(make([]byte, 1))
			}
			if err == nil || errors.Is(err, io.EOF) || from == conn && !strings.Contains(err.Error(), "the connection broke: ") {
				t.Errorf("%s: who sends: %v", direction, err)
			}
		})
		if _, err := io.ReadFull(to, make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
		wg.Go(func() {
			defer func() { _ = to.Close() }()
			_, err := io.Copy(io.Discard, to)
			if err == nil || to == conn && !strings.Contains(err.Error(), "the node b broke: nothing was heard for") {
				t.Errorf("%s: who receives: %v", direction, err)
			}
		})
	}
	way.Freeze(true)
	_, err := a.admin.Dial(t.Context(), "d", "x")
	var said *admin.OutcomeError
	if !errors.As(err, &said) || said.State != admin.Unavailable || !strings.Contains(said.Text, "the node b, which holds the device, does not answer") || said.Next == "" {
		t.Errorf("dial: %v", err)
	}
	wg.Wait()
	if d := must[*admin.DeviceDetail](t)(a.admin.Device(t.Context(), "d")); !d.Connected || d.Session.Node != "b" {
		t.Errorf("what is known without it: %+v", d)
	}
	way.Freeze(false)
	conn := must[*admin.Conn](t)(a.admin.Dial(t.Context(), "d", "x"))
	_ = conn.Close()
}
