package client

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestPathsForgetAfterAnHour(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var p paths
		if c := p.first("home"); c != CarrierWebSocket {
			t.Errorf("an unknown network begins with %s", c)
		}
		p.gaveUp("home")
		if c := p.first("home"); c != CarrierPOST {
			t.Errorf("remembered, it begins with %s", c)
		}
		if c := p.first("work"); c != CarrierWebSocket {
			t.Errorf("another network begins with %s", c)
		}
		time.Sleep(rememberFor)
		if c := p.first("home"); c != CarrierWebSocket {
			t.Errorf("after an hour it begins with %s", c)
		}
		p.gaveUp("home")
		p.works("home")
		if c := p.first("home"); c != CarrierWebSocket {
			t.Errorf("once WebSocket works it begins with %s", c)
		}
	})
}

func TestWebSocketIsTriedAgainMoreAndMoreSeldom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var p paths
		for _, want := range []time.Duration{time.Minute, 2 * time.Minute, 4 * time.Minute, 8 * time.Minute, 16 * time.Minute, 32 * time.Minute, time.Hour, time.Hour} {
			p.gaveUp("home")
			if d := p.retryIn("home"); d != want {
				t.Errorf("in %s, want %s", d, want)
			}
		}
		time.Sleep(59 * time.Minute) // whatever sessions come and go meanwhile
		if d := p.retryIn("home"); d != time.Minute {
			t.Errorf("in %s", d)
		}
		time.Sleep(time.Hour)
		if d := p.retryIn("home"); d != 0 {
			t.Errorf("in %s", d)
		}
		p.works("home")
		p.gaveUp("home")
		if d := p.retryIn("home"); d != time.Minute {
			t.Errorf("after it worked, in %s", d)
		}
	})
}

func TestPathsAreBounded(t *testing.T) {
	var p paths
	for i := range 10 * maxNetworks {
		p.gaveUp(fmt.Sprint(i))
	}
	if n := len(p.known); n > maxNetworks {
		t.Errorf("%d networks are remembered", n)
	}
	if c := p.first(fmt.Sprint(10*maxNetworks - 1)); c != CarrierPOST {
		t.Error("the latest network is forgotten")
	}
}

func TestNetworkIsThatOfTheProxy(t *testing.T) {
	direct := func(*http.Request) (*url.URL, error) { return nil, nil }
	proxy := func(r *http.Request) (*url.URL, error) {
		if r.URL.Scheme != "https" {
			return nil, fmt.Errorf("scheme %q", r.URL.Scheme)
		}
		return &url.URL{Scheme: "http", Host: "127.0.0.1:3128"}, nil
	}
	for _, tc := range []struct {
		c    Config
		want string
	}{
		{Config{URL: "wss://127.0.0.1:8443/", Proxy: direct}, " 127.0.0.0/24"},
		{Config{URL: "https://[::1]/", Proxy: direct}, " ::/64"},
		{Config{URL: "wss://no-such-host.invalid/", Proxy: direct}, ""},
		{Config{URL: "wss://no-such-host.invalid/", Proxy: proxy}, "127.0.0.1:3128 127.0.0.0/24"},
	} {
		if got := network(t.Context(), &tc.c); got != tc.want {
			if strings.Contains(tc.c.URL, "::1") && got == "" {
				continue // a machine without IPv6
			}
			t.Errorf("%s: %q, want %q", tc.c.URL, got, tc.want)
		}
	}
}
