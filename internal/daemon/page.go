package daemon

import (
	"cmp"
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"errors"
	"html/template"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/atls-ws/atls-ws/internal/config"
	"github.com/atls-ws/atls-ws/internal/daemon/access"
	"github.com/atls-ws/atls-ws/internal/daemon/admin"
	"github.com/atls-ws/atls-ws/internal/daemon/fleet"
)

//go:embed page.html page.css
var pageFiles embed.FS

const (
	pageRows     = 500 // devices of a page, and outcomes
	pageSome     = 8   // devices that are named for a middlebox
	pageRefresh  = 2   // seconds between two looks at a signal
	pageWait     = 2 * time.Second
	maxPushForm  = 3*admin.MaxData + maxForm // data may be escaped
	policyOfPage = "default-src 'none'; style-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)

// pages show the fleet to an operator's browser: plain HTML and forms, without
// a script.
type pages struct {
	d    *daemon
	key  []byte // of the forms' tokens
	html *template.Template
	css  []byte
	mux  *http.ServeMux
}

func newPages(d *daemon) (*pages, error) {
	p := &pages{d: d, key: make([]byte, 32), mux: http.NewServeMux()}
	_, _ = rand.Read(p.key) // never fails
	var err error
	if p.css, err = pageFiles.ReadFile("page.css"); err != nil {
		return nil, err
	}
	p.html, err = template.New("").Funcs(template.FuncMap{
		"when": func(t time.Time) string {
			if t.IsZero() {
				return ""
			}
			return t.UTC().Format(time.DateTime)
		},
		"devicePath": func(id string) string { return "/devices/" + url.PathEscape(id) },
	}).ParseFS(pageFiles, "page.html")
	if err != nil {
		return nil, err
	}
	p.mux.HandleFunc("GET /{$}", p.fleet)
	p.mux.HandleFunc("GET /devices/{id}", p.device)
	p.mux.HandleFunc("GET /signals/{id}", p.signal)
	p.mux.HandleFunc("POST /push", p.push)
	p.mux.HandleFunc("GET /style.css", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/css; charset=utf-8")
		w.Header().Set("Cache-Control", "max-age=3600")
		_, _ = w.Write(p.css)
	})
	return p, nil
}

// ServeHTTP serves an operator who is known: see withOperator.
func (p *pages) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Content-Security-Policy", policyOfPage)
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Referrer-Policy", "same-origin")
	h.Set("Cache-Control", "no-store")
	p.mux.ServeHTTP(w, r)
}

// frame is what every page has.
type frame struct {
	Title, Who, Token string
	Refresh           int
	Device            string // of the push form
}

func (p *pages) frame(r *http.Request, title string) frame {
	return frame{Title: title, Who: operator(r).String(), Token: p.token(r)}
}

// token is what a form of this operator carries: another site's cannot.
func (p *pages) token(r *http.Request) string {
	m := hmac.New(sha256.New, p.key)
	_, _ = m.Write([]byte(r.Host + "\x00" + operator(r).String()))
	return hex.EncodeToString(m.Sum(nil))
}

func (p *pages) show(w http.ResponseWriter, status int, name string, data any) {
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.WriteHeader(status)
	if err := p.html.ExecuteTemplate(w, name, data); err != nil {
		p.d.log.Debug("page", "err", err) // mostly that nobody reads it
	}
}

func (p *pages) problem(w http.ResponseWriter, r *http.Request, status int, text, next string) {
	p.show(w, status, "problem", struct {
		frame
		Text, Next string
	}{p.frame(r, http.StatusText(status)), text, next})
}

// allowed decides and records, or answers that it is not allowed.
func (p *pages) allowed(w http.ResponseWriter, r *http.Request, scope, device, target string) bool {
	who := operator(r)
	if p.d.guard.Operator(who, r.RemoteAddr, scope, device, target).Allowed {
		return true
	}
	p.problem(w, r, http.StatusForbidden, "The server's rules do not let "+who.String()+" do this.", "Ask whoever writes authorization.operators of its configuration.")
	return false
}

// row is a device in the list.
type row struct {
	admin.Device
	Waiting    uint64
	OuterWords string
}

// box is what stands between devices and the server.
type box struct {
	Issuer, Verdict string
	Count, More     int
	Some            []string
}

type fleetPage struct {
	frame
	Version, Node                           string // Node: of a cluster, the one that shows this
	Connected, WebSocket, POST, Intercepted int
	Shown                                   int
	Query, NextPage                         string
	Health                                  fleet.Health
	Ready                                   bool
	Problems                                []admin.Check
	Boxes                                   []*box
	Devices                                 []row
	Offline                                 []fleet.QueueLength
}

func (p *pages) fleet(w http.ResponseWriter, r *http.Request) {
	if !p.allowed(w, r, config.ScopeList, "", "") {
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), healthTime)
	defer cancel()
	page := fleetPage{frame: p.frame(r, "atls-ws fleet"), Version: p.d.version, Node: p.d.fleet.Node(), Query: strings.TrimSpace(r.URL.Query().Get("q")), Health: p.d.fleet.Health(ctx)}
	ready := p.d.health(ctx, true)
	page.Ready = ready.Status == admin.HealthOK
	for _, c := range ready.Checks {
		if !c.OK {
			page.Problems = append(page.Problems, c)
		}
	}
	queues, err := p.d.fleet.Queues(ctx)
	if err != nil {
		p.d.log.Debug("page: queues", "err", err) // the problems above say it
	}
	sees := func(device string) bool { return p.d.guard.Sees(operator(r), device) }
	waiting := map[string]uint64{}
	for _, q := range queues {
		waiting[q.Device] = q.Signals
	}
	online := map[string]bool{}
	boxes := map[[2]string]*box{}
	var rows []row
	for _, d := range p.d.admin.everywhere(ctx, sees) {
		online[d.Device] = true
		page.count(&d, boxes)
		if strings.Contains(d.Device, page.Query) {
			rows = append(rows, row{d, waiting[d.Device], verdict(&d)})
		}
	}
	for _, q := range queues {
		if len(page.Offline) < pageRows && !online[q.Device] && sees(q.Device) {
			page.Offline = append(page.Offline, q)
		}
	}
	for _, b := range boxes {
		page.Boxes = append(page.Boxes, b)
	}
	slices.SortFunc(page.Boxes, func(a, b *box) int { return cmp.Or(b.Count-a.Count, cmp.Compare(a.Issuer, b.Issuer)) })
	from, _ := strconv.Atoi(r.URL.Query().Get("from"))
	from = max(0, min(from, len(rows)))
	to := min(from+pageRows, len(rows))
	page.Devices, page.Shown = rows[from:to], to-from
	if to < len(rows) {
		page.NextPage = "/?" + url.Values{"q": {page.Query}, "from": {strconv.Itoa(to)}}.Encode()
	}
	p.show(w, http.StatusOK, "fleet", page)
}

// count adds a device to the numbers and to those behind a box.
func (f *fleetPage) count(d *admin.Device, boxes map[[2]string]*box) {
	f.Connected++
	switch d.Carrier {
	case config.CarrierWebSocket:
		f.WebSocket++
	case config.CarrierPOST:
		f.POST++
	}
	if d.Outer == nil || len(d.Outer.Chain) == 0 {
		return
	}
	if d.Outer.Intercepted {
		f.Intercepted++
	}
	key := [2]string{d.Outer.Chain[0].Issuer, verdict(d)}
	b := boxes[key]
	if b == nil {
		b = &box{Issuer: key[0], Verdict: key[1]}
		boxes[key] = b
	}
	if b.Count++; len(b.Some) < pageSome {
		b.Some = append(b.Some, d.Device)
	} else {
		b.More++
	}
}

// verdict says in a word what a device met.
func verdict(d *admin.Device) string {
	switch {
	case d.Outer == nil:
		return "no TLS"
	case d.Outer.Intercepted && d.Outer.Verified:
		return "intercepted, verified"
	case d.Outer.Intercepted:
		return "intercepted, not verified"
	case d.Outer.Verified:
		return "verified"
	}
	return "not verified"
}

func (p *pages) device(w http.ResponseWriter, r *http.Request) {
	id := r.PathValue("id")
	if !p.allowed(w, r, config.ScopeList, id, "") {
		return
	}
	queue, err := p.d.fleet.Waiting(r.Context(), id)
	if err != nil {
		p.explain(w, r, err)
		return
	}
	page := struct {
		frame
		Row   *row
		Queue []admin.QueuedSignal
	}{frame: p.frame(r, id), Queue: queue}
	page.Device = id
	if d := p.d.admin.session(r.Context(), id); d != nil {
		page.Row = &row{Device: *d, OuterWords: verdict(d)}
	}
	p.show(w, http.StatusOK, "device", page)
}

func (p *pages) signal(w http.ResponseWriter, r *http.Request) {
	if !p.allowed(w, r, config.ScopeList, "", "") {
		return
	}
	s, err := p.d.fleet.Show(r.Context(), r.PathValue("id"))
	if err != nil {
		p.explain(w, r, err)
		return
	}
	page := struct {
		frame
		Signal   *admin.Signal
		Outcomes []admin.Outcome
		More     int
	}{frame: p.frame(r, s.Name), Signal: s}
	s.Counts = map[string]int{}
	pending := !s.Complete
	for _, o := range s.Outcomes {
		if !p.d.guard.Sees(operator(r), o.Device) {
			continue
		}
		s.Counts[o.State]++
		pending = pending || !o.Final() && p.d.fleet.Online(o.Device)
		if len(page.Outcomes) < pageRows {
			page.Outcomes = append(page.Outcomes, o)
		} else {
			page.More++
		}
	}
	if pending {
		page.Refresh = pageRefresh
	}
	p.show(w, http.StatusOK, "signal", page)
}

// push takes the form, queues the signal, waits a moment, and leads to what
// became of it, which can be loaded again.
func (p *pages) push(w http.ResponseWriter, r *http.Request) {
	if http.NewCrossOriginProtection().Check(r) != nil {
		p.problem(w, r, http.StatusForbidden, "This form comes from another site.", "Open the fleet's page and send it from there.")
		return
	}
	r.Body = http.MaxBytesReader(w, r.Body, maxPushForm)
	if err := r.ParseForm(); err != nil {
		p.problem(w, r, http.StatusBadRequest, "The form cannot be read: "+err.Error(), "A signal's data is at most 64 KiB.")
		return
	}
	if !hmac.Equal([]byte(r.PostForm.Get("token")), []byte(p.token(r))) {
		p.problem(w, r, http.StatusForbidden, "This form is of before the server's last start, or of another operator.", "Load the page anew and send it again.")
		return
	}
	id := admin.NewID()
	req := fleet.Request{ID: &id, Fresh: true, Name: r.PostForm.Get("name"), Data: []byte(r.PostForm.Get("data")), ContentType: "text/plain; charset=utf-8"}
	target, device := strings.TrimSpace(r.PostForm.Get("target")), "*"
	switch to := r.PostForm.Get("to"); {
	case to == "device" && target != "":
		req.Target.Device, device = target, target
	case to == "group" && target != "":
		req.Target.Group = target
	case to != "all":
		p.problem(w, r, http.StatusBadRequest, "It is not said to whom.", "Name a device or a group, or choose all.")
		return
	}
	if text := strings.TrimSpace(r.PostForm.Get("ttl")); text != "" {
		var err error
		if req.TTL, err = time.ParseDuration(text); err != nil || req.TTL <= 0 {
			p.problem(w, r, http.StatusBadRequest, strconv.Quote(text)+" is not a duration.", "Write one such as 10m or 24h, or nothing.")
			return
		}
	}
	if !p.allowed(w, r, config.ScopeSignal, device, req.Name) {
		return
	}
	text := hex.EncodeToString(id[:])
	answered := make(chan struct{}, 1)
	stop, err := p.d.fleet.Watch(text, func(admin.Outcome) {
		select {
		case answered <- struct{}{}:
		default:
		}
	})
	if err != nil {
		p.explain(w, r, err)
		return
	}
	defer stop()
	if _, err := p.d.fleet.Send(r.Context(), &req, func(admin.Outcome) {}); err != nil {
		p.explain(w, r, err)
		return
	}
	if req.Target.Device != "" && p.d.fleet.Online(req.Target.Device) {
		timer := time.NewTimer(pageWait)
		defer timer.Stop()
		select {
		case <-answered:
		case <-timer.C:
		case <-r.Context().Done():
		}
	}
	http.Redirect(w, r, "/signals/"+text, http.StatusSeeOther)
}

func (p *pages) explain(w http.ResponseWriter, r *http.Request, err error) {
	status, next := http.StatusBadGateway, ""
	unavailable, request := (*fleet.UnavailableError)(nil), (*fleet.RequestError)(nil)
	switch {
	case errors.As(err, &unavailable):
		status, next = http.StatusServiceUnavailable, unavailable.Next()
	case errors.As(err, &request):
		status = http.StatusBadRequest
	case errors.Is(err, fleet.ErrUnknown):
		status, next = http.StatusNotFound, "What became of a signal is kept for queue.outcomes of the configuration."
	}
	p.problem(w, r, status, err.Error(), next)
}

// onSocket serves the pages to the owner of the admin socket, as through
// ssh -L 8500:/run/atls-ws/admin.sock.
func (p *pages) onSocket(w http.ResponseWriter, r *http.Request) {
	p.ServeHTTP(w, withOperator(r, access.Local))
}

// ownSocket keeps away, from all that the admin socket serves, a page elsewhere in
// the browser of who has brought the socket to a port of his machine: one that
// sends requests there, or whose own name its DNS leads there. No browser is one
// without a Host.
func ownSocket(guard *access.Guard, h http.Handler) http.Handler {
	foreign := http.NewCrossOriginProtection()
	foreign.SetDenyHandler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		guard.Refused("admin socket", access.OtherSite)
		http.Error(w, "this request comes from another site", http.StatusForbidden)
	}))
	h = foreign.Handler(h)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		host := r.Host
		if i := strings.LastIndexByte(host, ':'); i >= 0 && !strings.HasSuffix(host, "]") {
			host = host[:i]
		}
		if !slices.Contains([]string{"", "localhost", "127.0.0.1", "[::1]", "admin"}, strings.ToLower(host)) {
			guard.Refused("admin socket", access.OtherHost)
			http.Error(w, "this host is not here: open the page as http://localhost:PORT/, and ask the API at http://admin/", http.StatusMisdirectedRequest)
			return
		}
		h.ServeHTTP(w, r)
	})
}
