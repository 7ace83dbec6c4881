package outer

import (
	"net/http"
	"net/url"
	"testing"
)

func TestAllProxyCountsWhereNothingElseDoes(t *testing.T) {
	t.Setenv("ALL_PROXY", "socks5://user:pass@10.0.0.1:1080")
	t.Setenv("NO_PROXY", "internal.example, .corp.example,10.0.0.0/8,cloud.example:8443")
	for target, want := range map[string]bool{
		"https://cloud.example/":       true,
		"https://cloud.example:8443/":  false,
		"https://internal.example/":    false,
		"https://a.internal.example/":  false,
		"https://notinternal.example/": true,
		"https://a.corp.example/":      false,
		"https://10.1.2.3/":            false,
		"https://11.1.2.3/":            true,
		"https://localhost/":           false,
		"http://127.0.0.1:80/":         false,
		"ws://cloud.example/":          true,
	} {
		r, _ := http.NewRequest(http.MethodGet, target, nil)
		u, err := Environment(r)
		if err != nil || (u != nil) != want {
			t.Errorf("%s: %v, %v", target, u, err)
		}
	}
	for list, want := range map[string]bool{"*": true, "": false, "*.example": true} {
		u, _ := url.Parse("https://cloud.example")
		if direct(u, list) != want {
			t.Errorf("NO_PROXY %q: %v", list, !want)
		}
	}
}

func TestProxyURLErrorsHideThePassword(t *testing.T) {
	if u, err := ParseProxy("proxy.example:3128"); err != nil || u.String() != "http://proxy.example:3128" {
		t.Error(u, err)
	}
	if _, err := ParseProxy("http://user:se cret%zz@host"); err == nil || err.Error() != `parse "(proxy)": net/url: invalid userinfo` {
		t.Error(err)
	}
}
