package daemon

import (
	"crypto/rand"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/atls-ws/atls-ws/internal/daemon/access"
	"github.com/atls-ws/atls-ws/internal/daemon/admin"
)

const (
	loginPath   = "/.atls-ws/login"
	loginCookie = "__Host-atls-ws" // a browser sends it to one device's pages alone
	loginTime   = 12 * time.Hour
	maxLogins   = 4096
	maxForm     = 4 << 10
)

// logins know the operators who come with a token: in a header, or once in a
// form and then with a cookie.
type logins struct {
	tokens *access.Tokens // nil: there are none
	guard  *access.Guard  // is told who is refused, and who enters

	mu    sync.Mutex
	known map[string]login // by the cookie's value
}

type login struct {
	token string // by which it was made, so that it ends with the token
	host  string // whose pages it is for
	until time.Time
}

func newLogins(file string, guard *access.Guard) (*logins, error) {
	l := &logins{guard: guard, known: map[string]login{}}
	if file == "" {
		return l, nil
	}
	var err error
	l.tokens, err = access.LoadTokens(file)
	return l, err
}

// name is the name of the token by which a request comes.
func (l *logins) name(r *http.Request) (string, bool) {
	if l.tokens == nil {
		return "", false
	}
	if scheme, secret, ok := strings.Cut(r.Header.Get("Authorization"), " "); ok && strings.EqualFold(scheme, "Bearer") {
		return l.tokens.Name(strings.TrimSpace(secret))
	}
	c, err := r.Cookie(loginCookie)
	if err != nil {
		return "", false
	}
	l.mu.Lock()
	one, ok := l.known[c.Value]
	l.mu.Unlock()
	if !ok || one.host != r.Host || time.Now().After(one.until) {
		return "", false
	}
	return l.tokens.Name(one.token)
}

// ask answers a request of nobody.
func (l *logins) ask(w http.ResponseWriter, r *http.Request, page bool) {
	reason := access.NoCredentials
	if r.Header.Get("Authorization") != "" {
		reason = access.WrongToken
	}
	l.guard.Refused(r.RemoteAddr, reason)
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("WWW-Authenticate", `Bearer realm="atls-ws"`)
	if !page {
		reply(w, http.StatusUnauthorized, admin.Outcome{State: admin.Refused, Code: admin.Unauthenticated, Text: "an operator's certificate or token is required"})
		return
	}
	if l.tokens == nil || r.Method != http.MethodGet || !strings.Contains(r.Header.Get("Accept"), "text/html") {
		http.Error(w, "an operator's certificate or token is required", http.StatusUnauthorized)
		return
	}
	form(w, http.StatusUnauthorized, "")
}

func form(w http.ResponseWriter, status int, text string) {
	h := w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Content-Security-Policy", "default-src 'none'; form-action 'self'; frame-ancestors 'none'")
	w.WriteHeader(status)
	_, _ = io.WriteString(w, `<!doctype html><title>atls-ws</title><form method="post" action="`+loginPath+`"><p>`+text+
		`</p><label>Token <input name="token" type="password" autocomplete="current-password" autofocus></label> <button>Enter</button></form>`)
}

// serve takes the form.
func (l *logins) serve(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Cache-Control", "no-store")
	if r.Method != http.MethodPost || l.tokens == nil {
		http.Redirect(w, r, "/", http.StatusSeeOther)
		return
	}
	if http.NewCrossOriginProtection().Check(r) != nil {
		l.guard.Refused(r.RemoteAddr, access.OtherSite)
		http.Error(w, "a login from another origin", http.StatusForbidden)
		return
	}
	r.Body = http.MaxBytesReader(w, r.Body, maxForm)
	secret := r.PostFormValue("token")
	name, ok := l.tokens.Name(secret)
	if !ok {
		l.guard.Refused(r.RemoteAddr, access.WrongToken)
		form(w, http.StatusForbidden, "No such token.")
		return
	}
	l.guard.Entered(access.Operator{"token:" + name}, r.RemoteAddr)
	value := rand.Text()
	l.mu.Lock()
	l.makeRoomLocked()
	l.known[value] = login{secret, r.Host, time.Now().Add(loginTime)}
	l.mu.Unlock()
	http.SetCookie(w, &http.Cookie{Name: loginCookie, Value: value, Path: "/", Secure: true, HttpOnly: true,
		SameSite: http.SameSiteStrictMode, MaxAge: int(loginTime.Seconds())})
	http.Redirect(w, r, "/", http.StatusSeeOther)
}

// makeRoomLocked forgets logins that have ended, and the oldest of too many.
func (l *logins) makeRoomLocked() {
	now, oldest := time.Now(), ""
	for value, one := range l.known {
		switch {
		case now.After(one.until):
			delete(l.known, value)
		case oldest == "" || one.until.Before(l.known[oldest].until):
			oldest = value
		}
	}
	if len(l.known) >= maxLogins {
		delete(l.known, oldest)
	}
}
