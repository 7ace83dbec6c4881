package daemon

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/atls-ws/atls-ws/internal/config"
	"github.com/atls-ws/atls-ws/internal/daemon/access"
	"github.com/atls-ws/atls-ws/internal/daemon/admin"
	"github.com/atls-ws/atls-ws/server"
)

// metrics are what Prometheus reads: counts that are kept here, and numbers that
// are asked for when it comes. None has a label that a stranger chooses.
type metrics struct {
	registry *prometheus.Registry

	sessions    *prometheus.CounterVec // by carrier and outer
	handshakes  *prometheus.CounterVec // by outcome
	ends        *prometheus.CounterVec // by reason
	decisions   *prometheus.CounterVec // by action and whether it was allowed
	strangers   *prometheus.CounterVec // by reason
	signals     *prometheus.CounterVec // by state
	signalTime  *prometheus.HistogramVec
	reloads     *prometheus.CounterVec // by result
	lastReload  prometheus.Gauge
	sessionTime prometheus.Histogram
	resumed     prometheus.Counter
	requests    *prometheus.CounterVec // refused POST requests by status
}

func newMetrics() *metrics {
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: "atls_" + name, Help: help}, labels)
	}
	m := &metrics{
		registry:   prometheus.NewRegistry(),
		sessions:   counter("sessions_total", "Sessions that became ready.", "carrier", "outer"),
		handshakes: counter("handshakes_total", "Connections of devices by what became of them: ready, or why not.", "outcome"),
		ends:       counter("session_ends_total", "Sessions that ended, by the reason.", "reason"),
		decisions:  counter("decisions_total", "Decisions of the rules.", "action", "allowed"),
		strangers:  counter("operators_refused_total", "Requests to the console and the admin socket of nobody who is known, by the reason; what the rules refuse is in atls_decisions_total.", "reason"),
		signals:    counter("signals_total", "Signals to devices by the state that they reached.", "state"),
		signalTime: prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "atls_signal_seconds", Help: "Time from queueing a signal to its outcome.",
			Buckets: []float64{.005, .01, .025, .05, .1, .25, .5, 1, 2.5, 10, 60, 600, 3600, 86400}}, []string{"state"}),
		sessionTime: prometheus.NewHistogram(prometheus.HistogramOpts{Name: "atls_session_seconds", Help: "How long sessions lasted.",
			Buckets: []float64{1, 10, 60, 600, 3600, 6 * 3600, 86400, 7 * 86400}}),
		reloads:    counter("reloads_total", "Times that the configuration and its files were read again.", "result"),
		lastReload: prometheus.NewGauge(prometheus.GaugeOpts{Name: "atls_reload_ok", Help: "1 unless what was read last was in error and the old stays in force."}),
	}
	m.lastReload.Set(1)
	m.requests = counter("post_refused_total", "POST requests that were not answered 200.", "status")
	m.resumed = prometheus.NewCounter(prometheus.CounterOpts{Name: "atls_resumed_total", Help: "Sessions whose inner TLS was resumed."})
	m.registry.MustRegister(m.resumed, m.requests, m.sessions, m.handshakes, m.ends, m.decisions, m.strangers, m.signals, m.signalTime, m.sessionTime, m.reloads, m.lastReload,
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

func (m *metrics) reloaded(ok bool) {
	result := map[bool]string{true: "ok", false: "refused"}[ok]
	m.reloads.WithLabelValues(result).Inc()
	m.lastReload.Set(map[bool]float64{true: 1, false: 0}[ok])
}

func (m *metrics) connected(s *server.Session) {
	m.handshakes.WithLabelValues("ready").Inc()
	m.sessions.WithLabelValues(carrierLabel(s), outerLabel(s)).Inc()
	if s.ConnectionState().DidResume {
		m.resumed.Inc()
	}
}

func (m *metrics) disconnected(s *server.Session, err error) {
	m.ends.WithLabelValues(endReason(err)).Inc()
	m.sessionTime.Observe(time.Since(s.Opened()).Seconds())
}

func (m *metrics) refused(_ string, err error) {
	m.handshakes.WithLabelValues(refusalReason(err)).Inc()
}

func (m *metrics) refusedRequest(_ string, status int) {
	m.requests.WithLabelValues(strconv.Itoa(status)).Inc()
}

func (m *metrics) decided(r access.Record) {
	if r.Action == access.ActionLogin && !r.Allowed {
		m.strangers.WithLabelValues(r.Rule).Inc()
		return
	}
	m.decisions.WithLabelValues(r.Action, strconv.FormatBool(r.Allowed)).Inc()
}

func (m *metrics) signal(state string, after time.Duration) {
	m.signals.WithLabelValues(state).Inc()
	if state == admin.Acked || state == admin.Refused {
		m.signalTime.WithLabelValues(state).Observe(after.Seconds())
	}
}

// carrierLabel is what a device said, if it is one that there is.
func carrierLabel(s *server.Session) string {
	switch c := s.Hello().Carrier; c {
	case config.CarrierWebSocket, config.CarrierPOST:
		return c
	}
	return "other"
}

// outerLabel is what a device met on the outer hop.
func outerLabel(s *server.Session) string {
	switch o := s.Hello().Outer; {
	case o == nil:
		return "unknown"
	case o.Intercepted && o.Verified:
		return "intercepted_verified"
	case o.Intercepted:
		return "intercepted"
	case o.Verified:
		return "verified"
	}
	return "unverified"
}

func endReason(err error) string {
	switch {
	case errors.Is(err, server.ErrDead):
		return "silent"
	case errors.Is(err, server.ErrPeerGone):
		return "gone"
	case errors.Is(err, server.ErrClosed):
		return "closed_here"
	}
	return "protocol"
}

// refusalReason says in a word why a connection became no session.
func refusalReason(err error) string {
	var (
		verify  *tls.CertificateVerificationError
		revoked *config.RevokedError
		alert   *server.AlertError
		refused *server.RefusedError
	)
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return "timeout"
	case errors.As(err, &revoked):
		return "revoked"
	case errors.As(err, &verify), errors.Is(err, config.ErrOtherCA):
		return "certificate"
	case errors.As(err, &alert):
		return "refused_by_device"
	case errors.As(err, &refused):
		return "refused"
	case errors.Is(err, server.ErrBeforeReady):
		return "too_many_bytes"
	case errors.Is(err, context.Canceled):
		return "stopping"
	case strings.HasPrefix(err.Error(), "carrier: "):
		return "no_carrier"
	}
	return "broken"
}

// numbers are asked for when Prometheus comes.
type numbers struct{ d *daemon }

const scrapeTimeout = 2 * time.Second

var (
	descSessions = desc("sessions", "Live sessions of devices.", "carrier", "outer")
	descHalfOpen = desc("half_open", "Connections that are not ready yet.")
	descPeers    = desc("http_peers", "Live connections of atls-http/1.")
	descFull     = desc("limit_reached_total", "Times that a limit was in the way.", "limit")
	descLimit    = desc("limit", "The limits in force.", "limit")
	descEnded    = desc("sessions_ended_total", "Sessions that were ended because the device is not admitted any more.")
	descStreams  = desc("streams", "Open streams, by who opened them.", "opened_by")
	descBytes    = desc("service_bytes_total", "Bytes of service streams, from and to devices.", "direction")
	descStore    = desc("store_up", "1 when the store of the signals answers.")
	descTaken    = desc("signals_taken", "1 when new signals are taken.")
	descQueue    = desc("queue_signals", "Signals that wait for devices.")
	descWaiting  = desc("queue_devices", "Devices for which signals wait.")
	descQueueB   = desc("queue_bytes", "Bytes of the queues.")
	descFree     = desc("store_free_bytes", "Bytes left on the disk of the data directory.")
	descEnd      = desc("certificate_end_timestamp_seconds", "When a certificate, or a CRL's next update, ends.", "what", "file", "name")
	descReady    = desc("ready", "1 when /readyz says so.")
	descBuild    = desc("build_info", "1, of this version.", "version")
)

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("atls_"+name, help, labels, nil)
}

// Describe makes the collector an unchecked one: its series come and go.
func (n *numbers) Describe(chan<- *prometheus.Desc) {}

// Collect implements prometheus.Collector.
func (n *numbers) Collect(out chan<- prometheus.Metric) {
	d := n.d
	put := func(desc *prometheus.Desc, kind prometheus.ValueType, v float64, labels ...string) {
		out <- prometheus.MustNewConstMetric(desc, kind, v, labels...)
	}
	gauge := func(desc *prometheus.Desc, v float64, labels ...string) {
		put(desc, prometheus.GaugeValue, v, labels...)
	}
	count := func(desc *prometheus.Desc, v uint64, labels ...string) {
		put(desc, prometheus.CounterValue, float64(v), labels...)
	}
	gauge(descBuild, 1, d.version)

	live, streams := map[[2]string]int{}, 0
	for s := range d.server.Registry().All() {
		live[[2]string{carrierLabel(s), outerLabel(s)}]++
		streams += s.Streams()
	}
	for labels, v := range live {
		gauge(descSessions, float64(v), labels[0], labels[1])
	}
	st, limits, dials := d.server.Stats(), d.limits.Stats(), d.reach.dials.Stats()
	gauge(descHalfOpen, float64(st.HalfOpen))
	gauge(descPeers, float64(st.HTTPPeers))
	count(descEnded, st.Ended)
	count(descFull, st.FullHalfOpen, "half_open")
	count(descFull, st.FullSessions, "sessions")
	count(descFull, st.FullStreams, "streams")
	count(descFull, st.FullUnread, "unread")
	count(descFull, st.FullWaiting, "waiting")
	count(descFull, st.SlowedSignals, "signals")
	count(descFull, st.LateTurns, "handshakes")
	count(descFull, dials.Full, "dials")
	count(descFull, limits.Slowed+dials.Slowed, "rate")
	l := d.server.Limits()
	gauge(descLimit, float64(l.HalfOpen), "half_open")
	gauge(descLimit, float64(l.Sessions), "sessions")
	gauge(descLimit, float64(l.Streams), "streams")
	gauge(descLimit, float64(l.Unread), "unread")
	gauge(descLimit, float64(l.SignalRate), "signals")
	gauge(descLimit, float64(d.reach.dials.Conns), "dials")
	gauge(descStreams, float64(streams), "device")
	gauge(descStreams, float64(dials.Conns), "server")
	count(descBytes, limits.In, "from_device")
	count(descBytes, limits.Out, "to_device")

	ctx, cancel := context.WithTimeout(context.Background(), scrapeTimeout)
	defer cancel()
	h := d.fleet.Health(ctx)
	gauge(descStore, truth(h.Up))
	gauge(descTaken, truth(h.Err == nil))
	if h.Up {
		gauge(descQueue, float64(h.Signals))
		gauge(descWaiting, float64(h.Devices))
		gauge(descQueueB, float64(h.Bytes))
	}
	if h.Embedded {
		gauge(descFree, float64(h.Free))
	}
	gauge(descReady, truth(d.health(ctx, true).Status == admin.HealthOK))
	seen := map[[3]string]bool{}
	for _, e := range d.reloader.now.Load().Expiries() { // the soonest first
		if labels := [3]string{e.What, e.File, e.Name}; !seen[labels] {
			seen[labels] = true
			gauge(descEnd, float64(e.End.Unix()), labels[:]...)
		}
	}
}

func truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

// handler serves /metrics.
func (m *metrics) handler(log *slog.Logger) http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{
		ErrorLog: promLog{log}, MaxRequestsInFlight: 4, Timeout: 5 * time.Second,
	})
}

type promLog struct{ log *slog.Logger }

func (l promLog) Println(v ...any) { l.log.Warn("metrics", "err", fmt.Sprint(v...)) }
