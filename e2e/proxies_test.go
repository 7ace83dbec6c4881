//go:build e2e

package e2e

import (
	"crypto/tls"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/atls-ws/atls-ws/client"
)

// What proxies want to hear.
const (
	login    = "pump"
	password = "open-sesame"
)

// squidLogin is squid as a plain CONNECT proxy that checks a password. The
// device finds it in HTTPS_PROXY, and only squid knows the server's name.
func squidLogin(t *testing.T, s *site, program string) hop {
	port := startSquidLogin(t, s, program)
	_, serverPort, _ := net.SplitHostPort(s.addr)
	return hop{
		url: "wss://service.invalid:" + serverPort + path, issuer: "Outer CA",
		env: []string{"HTTPS_PROXY=http://" + login + ":" + password + "@127.0.0.1:" + port},
	}
}

func startSquidLogin(t *testing.T, s *site, program string) (port string) {
	t.Helper()
	ncsa := ""
	for _, dir := range []string{"/usr/lib/squid", "/usr/lib64/squid", "/usr/libexec/squid"} {
		if p := filepath.Join(dir, "basic_ncsa_auth"); executable(p) {
			ncsa = p
		}
	}
	if ncsa == "" {
		t.Fatal("this squid has no basic_ncsa_auth: apt-get install squid-openssl")
	}
	hash, err := exec.Command("openssl", "passwd", "-apr1", password).Output()
	s.write(err)
	s.write(os.MkdirAll(s.file("squid"), 0o755))
	s.write(os.WriteFile(s.file("squid", "passwd"), []byte(login+":"+string(hash)), 0o644))
	s.write(os.WriteFile(s.file("squid", "hosts"), []byte("127.0.0.1 service.invalid\n"), 0o644))
	return startSquid(t, s, program, fmt.Sprintf(`
auth_param basic program %s %s
auth_param basic children 1
acl known proxy_auth REQUIRED
http_access allow known
http_access deny all
hosts_file %s
`, ncsa, s.file("squid", "passwd"), s.file("squid", "hosts")))
}

func executable(file string) bool {
	_, err := exec.LookPath(file)
	return err == nil
}

// tinyproxy is a CONNECT proxy with one more line of configuration. The device
// finds it in --proxy, or with a password in ATLS_WS_PROXY.
func tinyproxy(line string) func(*testing.T, *site, string) hop {
	return func(t *testing.T, s *site, program string) hop {
		h := hop{url: "wss://" + s.addr + path, issuer: "Outer CA"}
		port := startTinyproxy(t, s, program, line)
		if line == "" {
			h.proxy = "http://127.0.0.1:" + port
		} else {
			h.env = []string{"ATLS_WS_PROXY=http://" + login + ":" + password + "@127.0.0.1:" + port}
		}
		return h
	}
}

func startTinyproxy(t *testing.T, s *site, program, line string) (port string) {
	t.Helper()
	port = freePort(t)
	listening(t, start(t, "tinyproxy", exec.Command(program, "-d", "-c", writeConf(s, "tinyproxy.conf", fmt.Sprintf(`
Port %s
Listen 127.0.0.1
Timeout 600
LogLevel Notice
MaxClients 32
%s
`, port, line)))), port)
	return port
}

// httpsProxy is a proxy that is itself behind TLS, whose certificate the device
// has to verify.
func httpsProxy(t *testing.T, s *site, program string) hop {
	port := startTinyproxy(t, s, program, "BasicAuth "+login+" "+password)
	ca := newCA(t, "Proxy CA")
	s.write(ca.Write(s.file("proxy-ca"), false))
	p, err := ca.Server([]string{"127.0.0.1"}, 0)
	s.write(err)
	cert, err := p.TLS()
	s.write(err)
	addr := accept(t, &tls.Config{Certificates: []tls.Certificate{cert}}, func(c net.Conn) {
		if to, err := net.Dial("tcp", "127.0.0.1:"+port); err == nil {
			_ = client.Splice(c, to)
		}
	})
	return hop{
		url: "wss://" + s.addr + path, issuer: "Outer CA",
		args: []string{"--outer", "report", "--outer-roots", s.file("proxy-ca", "ca.pem")},
		env:  []string{"ATLS_WS_PROXY=https://" + login + ":" + password + "@" + addr},
	}
}

// socks is a SOCKS5 server with more arguments. With a password the device has
// it from its configuration file; else from ALL_PROXY, which is not used for
// loopback addresses: written as 127.1, only the proxy knows that it is one.
func socks(args ...string) func(*testing.T, *site, string) hop {
	return func(t *testing.T, s *site, program string) hop {
		port := freePort(t)
		listening(t, start(t, "microsocks", exec.Command(program, append([]string{"-i", "127.0.0.1", "-p", port}, args...)...)), port)
		if len(args) > 0 {
			conf := writeConf(s, "proxy.yaml", "proxy: socks5://"+login+":"+password+"@127.0.0.1:"+port+"\n")
			return hop{url: "wss://" + s.addr + path, issuer: "Outer CA", args: []string{"--config", conf}}
		}
		_, serverPort, _ := net.SplitHostPort(s.addr)
		return hop{url: "wss://127.1:" + serverPort + path, issuer: "Outer CA", env: []string{"ALL_PROXY=socks5://127.0.0.1:" + port}}
	}
}

// TestProxyThatRefusesIsExplained: what is wrong, where to set it, and at once.
func TestProxyThatRefusesIsExplained(t *testing.T) {
	s := newSite(t).serve(true)
	to := "wss://" + s.addr + path
	program := func(t *testing.T, name, pkg string) string { return box{program: name, pkg: pkg}.find(t) }
	once := func(t *testing.T, url string, env []string, words ...string) {
		t.Helper()
		runEnv(t, nil, env, s.deviceArgs(url, "--once")...).fails(t, 1, words...)
	}
	t.Run("squid", func(t *testing.T) {
		proxy, url := "127.0.0.1:"+startSquidLogin(t, s, program(t, "squid", "squid-openssl")), "wss://service.invalid"+path
		once(t, url, []string{"HTTPS_PROXY=http://" + proxy}, "407", "wants a login", "user:password@")
		once(t, url, []string{"HTTPS_PROXY=http://" + login + ":wrong@" + proxy}, "407", "does not accept", login)
	})
	t.Run("tinyproxy", func(t *testing.T) {
		proxy := "127.0.0.1:" + startTinyproxy(t, s, program(t, "tinyproxy", "tinyproxy-bin"), "BasicAuth "+login+" "+password)
		once(t, to, []string{"ATLS_WS_PROXY=http://" + proxy}, "407", "wants a login", "user:password@")
		// It says 401 then.
		once(t, to, []string{"ATLS_WS_PROXY=http://" + login + ":wrong@" + proxy}, "by proxy", "does not accept", login)
	})
	t.Run("SOCKS5", func(t *testing.T) {
		port := freePort(t)
		listening(t, start(t, "microsocks", exec.Command(program(t, "microsocks", "microsocks"), "-i", "127.0.0.1", "-p", port, "-u", login, "-P", password)), port)
		once(t, to, []string{"ATLS_WS_PROXY=socks5://127.0.0.1:" + port}, "socks", "wants a login", "user:password@")
		once(t, to, []string{"ATLS_WS_PROXY=socks5://" + login + ":wrong@127.0.0.1:" + port}, "socks", "does not accept")
		once(t, "wss://127.0.0.1:"+freePort(t)+path, []string{"ATLS_WS_PROXY=socks5://" + login + ":" + password + "@127.0.0.1:" + port}, "socks", "refused")
	})
	t.Run("proxy behind TLS of an unknown authority", func(t *testing.T) {
		h := httpsProxy(t, s, program(t, "tinyproxy", "tinyproxy-bin"))
		once(t, to, h.env, "certificate of the proxy", "--outer-roots")
	})
}

// TestEnvironmentNamesTheProxy: NO_PROXY is obeyed, and --proxy goes first.
func TestEnvironmentNamesTheProxy(t *testing.T) {
	s := newSite(t)
	dead := "127.0.0.1:" + freePort(t)
	url := "wss://service.invalid" + path
	for _, tc := range []struct {
		name  string
		env   []string
		args  []string
		words []string
	}{
		{"HTTPS_PROXY", []string{"HTTPS_PROXY=http://" + dead}, nil, []string{"proxy", dead}},
		{"ALL_PROXY", []string{"all_proxy=socks5://" + dead}, nil, []string{"proxy", dead}},
		{"HTTPS_PROXY before ALL_PROXY", []string{"HTTPS_PROXY=http://" + dead, "ALL_PROXY=socks5://127.0.0.1:1"}, nil, []string{"proxy", dead}},
		{"NO_PROXY for HTTPS_PROXY", []string{"HTTPS_PROXY=http://" + dead, "NO_PROXY=.invalid"}, nil, []string{"the server's name is not found", "service.invalid"}},
		{"NO_PROXY for ALL_PROXY", []string{"ALL_PROXY=socks5://" + dead, "NO_PROXY=service.invalid"}, nil, []string{"the server's name is not found", "service.invalid"}},
		{"--proxy direct", []string{"HTTPS_PROXY=http://" + dead}, []string{"--proxy", "direct"}, []string{"the server's name is not found", "service.invalid"}},
		{"--proxy", []string{"HTTPS_PROXY=http://127.0.0.1:1", "NO_PROXY=.invalid"}, []string{"--proxy", "http://" + dead}, []string{"proxy", dead}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			runEnv(t, nil, tc.env, append(s.deviceArgs(url, "--once"), tc.args...)...).fails(t, 1, tc.words...)
		})
	}
}
