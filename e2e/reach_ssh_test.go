//go:build e2e

package e2e

import (
	"crypto/sha256"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strings"
	"testing"
)

// startSSHD starts an sshd of the current user on loopback and returns its
// port, and the options with which ssh can log in.
func startSSHD(t *testing.T, s *site) (port string, options []string) {
	t.Helper()
	sshd := program(t, "/usr/sbin/sshd")
	if os.Getuid() == 0 { // it insists on this folder, which the package's service makes
		if err := os.Mkdir("/run/sshd", 0o755); err == nil {
			t.Cleanup(func() { _ = os.Remove("/run/sshd") })
		}
	}
	for _, key := range []string{"host", "user"} {
		works(t, program(t, "ssh-keygen"), "-q", "-t", "ed25519", "-N", "", "-f", s.file(key))
	}
	public, err := os.ReadFile(s.file("user.pub"))
	s.write(err)
	s.write(os.WriteFile(s.file("authorized_keys"), public, 0o600))
	host, err := os.ReadFile(s.file("host.pub"))
	s.write(err)
	s.write(os.WriteFile(s.file("known_hosts"), []byte("device "+string(host)), 0o600))
	port = freePort(t)
	s.write(os.WriteFile(s.file("sshd_config"), []byte(fmt.Sprintf("ListenAddress 127.0.0.1:%s\nHostKey %s\nAuthorizedKeysFile %s\n"+
		"UsePAM no\nStrictModes no\nPidFile none\nPasswordAuthentication no\nPermitRootLogin prohibit-password\nAcceptEnv NOTHING\nSubsystem sftp internal-sftp\n",
		port, s.file("host"), s.file("authorized_keys"))), 0o600))
	c := start(t, "sshd", exec.Command(sshd, "-D", "-e", "-f", s.file("sshd_config")))
	listening(t, c, port)
	return port, []string{"-F", "none", "-i", s.file("user"), "-o", "IdentitiesOnly=yes", "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=yes",
		"-o", "UserKnownHostsFile=" + s.file("known_hosts"), "-o", "GlobalKnownHostsFile=none", "-o", "HostKeyAlias=device", "-o", "LogLevel=ERROR"}
}

func TestReachSSHLoginCopyForwardAndGit(t *testing.T) {
	t.Parallel()
	me, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	s := newSite(t).serveWith(fmt.Sprintf("listeners:\n- {listen: \"127.0.0.1:0\", device: %s, service: ssh}\n", deviceID))
	port, options := startSSHD(t, s)
	startDevice(t, s, "--service", "ssh=tcp://127.0.0.1:"+port)
	s.ready()
	_, listenPort, _ := net.SplitHostPort(address(t, s.server, "listener leads to a device"))
	viaDial := append([]string{"-o", "ProxyCommand=" + exe + " dial --admin " + s.admin() + " %h ssh"}, options...)
	// -o, for scp spells the port differently
	viaListener := append([]string{"-o", "HostName=127.0.0.1", "-o", "Port=" + listenPort}, options...)
	at := me.Username + "@" + deviceID

	for name, via := range map[string][]string{"dial": viaDial, "listener": viaListener} {
		if got := works(t, "ssh", append(append([]string(nil), via...), at, "echo logged in; cat >&2 /dev/null")...); got != "logged in\n" {
			t.Errorf("login by %s: %q", name, got)
		}
	}

	big := bulkBytes(64 << 20)
	s.write(os.WriteFile(s.file("big"), big, 0o600))
	works(t, "scp", append(append([]string(nil), viaDial...), s.file("big"), at+":"+s.file("there"))...)
	works(t, "scp", append(append([]string(nil), viaListener...), at+":"+s.file("there"), s.file("back"))...)
	for _, f := range []string{"there", "back"} {
		got, err := os.ReadFile(s.file(f))
		s.write(err)
		if sha256.Sum256(got) != sha256.Sum256(big) {
			t.Errorf("%s: %d bytes with another sum", f, len(got))
		}
	}

	web := strings.TrimPrefix(webPage(t), "http://")
	local := freePort(t)
	c := start(t, "ssh -L", exec.Command("ssh", append(append([]string(nil), viaListener...), "-N", "-o", "ExitOnForwardFailure=yes", "-L", "127.0.0.1:"+local+":"+web, at)...))
	listening(t, c, local)
	if got := works(t, "curl", "-sS", "--max-time", "20", "http://127.0.0.1:"+local+"/"); got != "pump page" {
		t.Errorf("port forward in ssh: %q", got)
	}

	git := program(t, "git")
	repo := s.file("repo")
	env := []string{"GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_SYSTEM=/dev/null", "GIT_AUTHOR_NAME=a", "GIT_AUTHOR_EMAIL=a@x", "GIT_COMMITTER_NAME=a", "GIT_COMMITTER_EMAIL=a@x",
		"GIT_SSH_COMMAND=ssh " + quoteAll(viaDial)}
	for _, args := range [][]string{{"init", "-q", repo}, {"-C", repo, "commit", "-q", "--allow-empty", "-m", "over ssh"}, {"clone", "-q", at + ":" + repo, s.file("clone")}} {
		if out, err := tool(t, env, git, args...); err != nil {
			t.Fatalf("git %q: %s %v", args, out, err)
		}
	}
	if got := works(t, git, "-C", filepath.Join(s.file("clone")), "log", "--format=%s"); got != "over ssh\n" {
		t.Errorf("clone: %q", got)
	}
}

// quoteAll quotes arguments for a shell.
func quoteAll(args []string) string {
	var b strings.Builder
	for _, a := range args {
		b.WriteString("'" + a + "' ")
	}
	return b.String()
}
