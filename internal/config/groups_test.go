package config

import (
	"slices"
	"testing"
)

func TestMatch(t *testing.T) {
	for _, tc := range []struct {
		pattern, name string
		want          bool
	}{
		{"a", "a", true}, {"a", "b", false}, {"*", "", true}, {"*", "any/thing", true}, {"pump-*", "pump-", true}, {"pump-*", "pum", false},
		{"*.corp", "a.corp", true}, {"*.corp", "corp", false}, {"a*b*c", "axxbyyc", true}, {"a*b*c", "axxbyy", false}, {"a*a", "a", false}, {"*aa*", "baab", true}, {"a?", "ab", false},
	} {
		if got := Match(tc.pattern, tc.name); got != tc.want {
			t.Errorf("Match(%q, %q) = %v", tc.pattern, tc.name, got)
		}
	}
}

func TestAGroupIsAListOrAMappingAndHasItsCertificates(t *testing.T) {
	s, err := LoadServer(write(t, "s.yaml", minimalServer+`groups:
  list: [a, "pump-*"]
  mapping: {devices: [b], ou: ["Plant *"]}
  certificates: []
authorization:
  devices:
  - {who: ["@certificates"], services: [s]}
deny: [old-1, "@list"]
`))
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		device string
		ou     []string
		want   []string
	}{
		{"a", nil, []string{"list"}},
		{"pump-7", []string{"Plant Lyon", "certificates"}, []string{"certificates", "list", "mapping"}},
		{"b", []string{"list", "other", "no name"}, []string{"list", "mapping", "other"}},
		{"c", nil, []string{}},
	} {
		if got := s.Groups.Of(tc.device, tc.ou); !slices.Equal(got, tc.want) || got == nil {
			t.Errorf("%s %q: %q, want %q", tc.device, tc.ou, got, tc.want)
		}
	}
}
