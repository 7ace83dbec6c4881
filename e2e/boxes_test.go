//go:build e2e

package e2e

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"strconv"
	"testing"
)

// box is a kind of middlebox.
type box struct {
	name    string
	program string // "" for none
	pkg     string
	plain   bool // it terminates TLS: the server behind it speaks plain HTTP
	start   func(t *testing.T, s *site, program string) hop
}

// hop is how a device gets through a started box.
type hop struct {
	url    string
	proxy  string // --proxy; "" for none
	issuer string // of the outer certificate that the device meets
}

var boxes = []box{
	{name: "direct", start: func(_ *testing.T, s *site, _ string) hop {
		return hop{url: "wss://" + s.addr + path, issuer: "Outer CA"}
	}},
	{name: "mitmproxy", program: "mitmdump", pkg: "mitmproxy", start: startMitmproxy},
	{name: "squid", program: "squid", pkg: "squid-openssl", start: startSquid},
	{name: "nginx", program: "nginx", pkg: "nginx", plain: true, start: startNginx},
	{name: "haproxy", program: "haproxy", pkg: "haproxy", plain: true, start: startHaproxy},
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

func startSquid(t *testing.T, s *site, program string) hop {
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
	port := freePort(t)
	conf := fmt.Sprintf(`
http_port 127.0.0.1:%[1]s ssl-bump tls-cert=%[2]s/ca.pem tls-key=%[2]s/ca-key.pem generate-host-certificates=on dynamic_cert_mem_cache_size=4MB
sslcrtd_program %[3]s -s %[2]s/ssl_db -M 4MB
sslcrtd_children 2 startup=1 idle=1
tls_outgoing_options cafile=%[4]s
acl step1 at_step SslBump1
ssl_bump peek step1
ssl_bump bump all
http_access allow all
http_upgrade_request_protocols websocket allow all
cache deny all
cache_mem 8 MB
pid_filename %[2]s/squid.pid
access_log none
cache_log stdio:%[2]s/cache.log
coredump_dir %[2]s
pinger_enable off
max_filedescriptors 1024
visible_hostname e2e
shutdown_lifetime 1 seconds
`, port, dir, certgen, s.file("outer-ca", "ca.pem"))
	if os.Getuid() == 0 { // squid does not stay root
		conf += "cache_effective_user proxy\n"
		chown(t, dir, "proxy")
	}
	c := start(t, "squid", exec.Command(program, "-N", "-d", "1", "-f", writeConf(s, "squid.conf", conf)))
	listening(t, c, port)
	_, serverPort, _ := net.SplitHostPort(s.addr)
	// By name: squid 5 does not match a certificate's IP addresses.
	return hop{url: "wss://localhost:" + serverPort + path, proxy: "http://127.0.0.1:" + port, issuer: "Squid Box CA"}
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

func startNginx(t *testing.T, s *site, program string) hop {
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
        listen 127.0.0.1:%s ssl;
        ssl_certificate %s;
        ssl_certificate_key %s;
        location / {
            proxy_pass http://%s;
            proxy_http_version 1.1;
            proxy_set_header Upgrade $http_upgrade;
            proxy_set_header Connection "upgrade";
            proxy_set_header Host $host;
        }
    }
}
`, port, cert, key, s.addr))))
	listening(t, c, port)
	return hop{url: "wss://127.0.0.1:" + port + path, issuer: "Nginx Box CA"}
}

func startHaproxy(t *testing.T, s *site, program string) hop {
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
    bind 127.0.0.1:%s ssl crt %s
    default_backend service
backend service
    server one %s
`, port, both, s.addr))))
	listening(t, c, port)
	return hop{url: "wss://127.0.0.1:" + port + path, issuer: "Haproxy Box CA"}
}
