//go:build e2e

package e2e

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"strconv"
	"strings"
	"testing"
)

// box is a kind of middlebox, and what becomes of a device behind it.
type box struct {
	name    string
	program string // "" for none
	pkg     string
	plain   bool // it terminates TLS: the server behind it speaks plain HTTP
	start   func(t *testing.T, s *site, program string) hop

	carrier    string // that gets through
	intercepts bool
}

// hop is how a device gets through a started box.
type hop struct {
	url    string
	proxy  string   // --proxy; "" for none
	args   []string // more of them
	env    []string
	issuer string // of the outer certificate that the device meets
	tls    string // its version; "" for any
}

var boxes = []box{
	{name: "direct", start: direct, carrier: "websocket"},
	{name: "mitmproxy", program: "mitmdump", pkg: "mitmproxy", start: startMitmproxy, carrier: "websocket", intercepts: true},
	{name: "mitmproxy, POST only", program: "mitmdump", pkg: "mitmproxy", start: post(startMitmproxy), carrier: "post", intercepts: true},
	{name: "squid that bumps", program: "squid", pkg: "squid-openssl", start: squidBump(""), carrier: "post", intercepts: true},
	{name: "squid that bumps and lets upgrade", program: "squid", pkg: "squid-openssl",
		start: squidBump("http_upgrade_request_protocols websocket allow all"), carrier: "websocket", intercepts: true},
	{name: "nginx by default", program: "nginx", pkg: "nginx-light", plain: true, start: nginx("ssl", ""), carrier: "post"},
	{name: "nginx with the headers for an upgrade", program: "nginx", pkg: "nginx-light", plain: true, start: nginx("ssl", nginxUpgrade), carrier: "websocket"},
	{name: "nginx with TLS 1.2 that prefers h2", program: "nginx", pkg: "nginx-light", plain: true,
		start: nginx("ssl http2", nginxUpgrade+"ssl_protocols TLSv1.2;"), carrier: "websocket"},
	{name: "haproxy without ALPN", program: "haproxy", pkg: "haproxy", plain: true, start: haproxy("", ""), carrier: "websocket"},
	{name: "haproxy that deletes the upgrade", program: "haproxy", pkg: "haproxy", plain: true,
		start: haproxy("", "http-request del-header upgrade"), carrier: "post"},
	{name: "haproxy with h2 only and TLS 1.2", program: "haproxy", pkg: "haproxy", plain: true,
		start: haproxy("alpn h2 ssl-max-ver TLSv1.2", ""), carrier: "websocket"},
	{name: "haproxy with h2 only and TLS 1.2, POST only", program: "haproxy", pkg: "haproxy", plain: true,
		start: post(haproxy("alpn h2 ssl-max-ver TLSv1.2", "")), carrier: "post"},
	{name: "squid that wants a login", program: "squid", pkg: "squid-openssl", start: squidLogin, carrier: "websocket"},
	{name: "squid that wants a login, POST only", program: "squid", pkg: "squid-openssl", start: post(squidLogin), carrier: "post"},
	{name: "tinyproxy", program: "tinyproxy", pkg: "tinyproxy-bin", start: tinyproxy(""), carrier: "websocket"},
	{name: "tinyproxy that wants a login", program: "tinyproxy", pkg: "tinyproxy-bin", start: tinyproxy("BasicAuth " + login + " " + password), carrier: "websocket"},
	{name: "proxy behind TLS", program: "tinyproxy", pkg: "tinyproxy-bin", start: httpsProxy, carrier: "websocket"},
	{name: "SOCKS5", program: "microsocks", pkg: "microsocks", start: socks(), carrier: "websocket"},
	{name: "SOCKS5 with a password", program: "microsocks", pkg: "microsocks", start: socks("-u", login, "-P", password), carrier: "websocket"},
}

func direct(_ *testing.T, s *site, _ string) hop {
	return hop{url: "wss://" + s.addr + path, issuer: "Outer CA"}
}

// post is a box through which the device is told to use POST.
func post(start func(*testing.T, *site, string) hop) func(*testing.T, *site, string) hop {
	return func(t *testing.T, s *site, program string) hop {
		h := start(t, s, program)
		h.args = append(h.args, "--carrier", "post")
		return h
	}
}

// find is the box's program; a missing one fails where CI is set.
func (b box) find(t *testing.T) string {
	t.Helper()
	if b.program == "" {
		return ""
	}
	for _, name := range []string{b.program, "/usr/sbin/" + b.program} {
		if p, err := exec.LookPath(name); err == nil {
			return p
		}
	}
	if os.Getenv("CI") != "" {
		t.Fatalf("%s is not installed: apt-get install %s", b.program, b.pkg)
	}
	t.Skipf("%s is not installed: apt-get install %s", b.program, b.pkg)
	return ""
}

func startMitmproxy(t *testing.T, s *site, program string) hop {
	port := freePort(t)
	c := start(t, "mitmproxy", exec.Command(program, "--listen-host", "127.0.0.1", "--listen-port", port,
		"--set", "confdir="+s.file("mitmproxy"), "--set", "flow_detail=0", "--ssl-insecure"))
	listening(t, c, port)
	return hop{url: "wss://" + s.addr + path, proxy: "http://127.0.0.1:" + port, issuer: "mitmproxy"}
}

// squidBump is squid with ssl-bump and one more line of configuration.
func squidBump(more string) func(*testing.T, *site, string) hop {
	return func(t *testing.T, s *site, program string) hop { return startSquidBump(t, s, program, more) }
}

func startSquidBump(t *testing.T, s *site, program, more string) hop {
	certgen := ""
	for _, p := range []string{"/usr/lib/squid/security_file_certgen", "/usr/lib64/squid/security_file_certgen", "/usr/libexec/squid/security_file_certgen"} {
		if _, err := os.Stat(p); err == nil {
			certgen = p
		}
	}
	if certgen == "" {
		t.Fatal("this squid cannot bump TLS: apt-get install squid-openssl")
	}
	dir := s.file("squid")
	s.write(newCA(t, "Squid Box CA").Write(dir, false))
	s.write(s.outer.Write(s.file("outer-ca"), false))
	if out, err := exec.Command(certgen, "-c", "-s", s.file("squid", "ssl_db"), "-M", "4MB").CombinedOutput(); err != nil {
		t.Fatalf("security_file_certgen: %v\n%s", err, out)
	}
	port := startSquid(t, s, program, fmt.Sprintf(`ssl-bump tls-cert=%[1]s/ca.pem tls-key=%[1]s/ca-key.pem generate-host-certificates=on dynamic_cert_mem_cache_size=4MB
sslcrtd_program %[2]s -s %[1]s/ssl_db -M 4MB
sslcrtd_children 2 startup=1 idle=1
tls_outgoing_options cafile=%[3]s
acl step1 at_step SslBump1
ssl_bump peek step1
ssl_bump bump all
http_access allow all
%[4]s
`, dir, certgen, s.file("outer-ca", "ca.pem"), more))
	_, serverPort, _ := net.SplitHostPort(s.addr)
	// By name: squid 5 does not match a certificate's IP addresses.
	return hop{url: "wss://localhost:" + serverPort + path, proxy: "http://127.0.0.1:" + port, issuer: "Squid Box CA"}
}

// startSquid starts squid in the folder squid; rest goes on where the line of
// its port stops. It returns the port.
func startSquid(t *testing.T, s *site, program, rest string) (port string) {
	t.Helper()
	port, dir := freePort(t), s.file("squid")
	conf := fmt.Sprintf(`
http_port 127.0.0.1:%[1]s %[2]s
cache deny all
cache_mem 8 MB
pid_filename %[3]s/squid.pid
access_log none
cache_log stdio:%[3]s/cache.log
coredump_dir %[3]s
pinger_enable off
max_filedescriptors 1024
visible_hostname e2e
shutdown_lifetime 0 seconds
`, port, rest, dir)
	if os.Getuid() == 0 { // squid does not stay root
		conf += "cache_effective_user proxy\n"
		chown(t, dir, "proxy")
	}
	listening(t, start(t, "squid", exec.Command(program, "-N", "-d", "1", "-f", writeConf(s, "squid.conf", conf))), port)
	return port
}

// chown gives a folder to a user, with everything in it.
func chown(t *testing.T, dir, name string) {
	t.Helper()
	u, err := user.Lookup(name)
	if err != nil {
		t.Fatal(err)
	}
	uid, _ := strconv.Atoi(u.Uid)
	gid, _ := strconv.Atoi(u.Gid)
	if out, err := exec.Command("chown", "-R", fmt.Sprintf("%d:%d", uid, gid), dir).CombinedOutput(); err != nil {
		t.Fatalf("chown: %v\n%s", err, out)
	}
}

// boxPair makes a reverse proxy its certificate: PEM files of both forms.
func boxPair(t *testing.T, s *site, authority string) (cert, key, both string) {
	t.Helper()
	p, err := newCA(t, authority).Server([]string{"localhost", "127.0.0.1"}, 0)
	s.write(err)
	s.write(p.Write(s.file("box"), "box", false))
	both = s.file("box", "both.pem")
	s.write(os.WriteFile(both, append(append([]byte(nil), p.CertPEM...), p.KeyPEM...), 0o600))
	return s.file("box", "box.pem"), s.file("box", "box-key.pem"), both
}

func writeConf(s *site, name, text string) string {
	s.t.Helper()
	s.write(os.WriteFile(s.file(name), []byte(text), 0o644))
	return s.file(name)
}

const nginxUpgrade = `proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection "upgrade"; proxy_http_version 1.1;`

// nginx is a reverse proxy that listens in a way and has more settings.
func nginx(listen, settings string) func(*testing.T, *site, string) hop {
	return func(t *testing.T, s *site, program string) hop { return startNginx(t, s, program, listen, settings) }
}

func startNginx(t *testing.T, s *site, program, listen, settings string) hop {
	cert, key, _ := boxPair(t, s, "Nginx Box CA")
	port := freePort(t)
	s.write(os.MkdirAll(s.file("nginx"), 0o755))
	c := start(t, "nginx", exec.Command(program, "-e", "stderr", "-p", s.file("nginx"), "-c", writeConf(s, "nginx.conf", fmt.Sprintf(`
daemon off;
master_process off;
pid nginx.pid;
error_log stderr notice;
events { worker_connections 64; }
http {
    access_log off;
    client_body_temp_path body;
    proxy_temp_path proxy;
    fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
    server {
        listen 127.0.0.1:%s %s;
        ssl_certificate %s;
        ssl_certificate_key %s;
        %s
        location / { proxy_pass http://%s; }
    }
}
`, port, listen, cert, key, settings, s.addr))))
	listening(t, c, port)
	h := hop{url: "wss://127.0.0.1:" + port + path, issuer: "Nginx Box CA"}
	if strings.Contains(settings, "TLSv1.2;") {
		h.tls = "TLS 1.2"
	}
	return h
}

// haproxy is a reverse proxy with more words on its bind line and one more rule.
func haproxy(bind, rule string) func(*testing.T, *site, string) hop {
	return func(t *testing.T, s *site, program string) hop { return startHaproxy(t, s, program, bind, rule) }
}

func startHaproxy(t *testing.T, s *site, program, bind, rule string) hop {
	_, _, both := boxPair(t, s, "Haproxy Box CA")
	port := freePort(t)
	c := start(t, "haproxy", exec.Command(program, "-db", "-f", writeConf(s, "haproxy.cfg", fmt.Sprintf(`
global
    maxconn 64
defaults
    mode http
    timeout connect 5s
    timeout client 50s
    timeout server 50s
frontend outer
    bind 127.0.0.1:%s ssl crt %s %s
    %s
    default_backend service
backend service
    server one %s
`, port, both, bind, rule, s.addr))))
	listening(t, c, port)
	h := hop{url: "wss://127.0.0.1:" + port + path, issuer: "Haproxy Box CA"}
	if strings.Contains(bind, "TLSv1.2") {
		h.tls = "TLS 1.2"
	}
	return h
}
