package daemon

import (
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v4"

	"github.com/atls-ws/atls-ws/internal/daemon/admin"
	"github.com/atls-ws/atls-ws/internal/session"
)

const openAPI = "../../docs/openapi.yaml"

func document(t *testing.T) map[string]any {
	t.Helper()
	var doc map[string]any
	if err := yaml.Load(must[[]byte](t)(os.ReadFile(openAPI)), &doc); err != nil {
		t.Fatal(err)
	}
	return doc
}

// at follows the names; nil when one is not there.
func at(v any, names ...string) any {
	for _, n := range names {
		m, _ := v.(map[string]any)
		v = m[n]
	}
	return v
}

func TestOpenAPIHasEveryRouteAndNoOther(t *testing.T) {
	doc := document(t)
	var documented []string
	ids := map[string]bool{}
	for path, item := range at(doc, "paths").(map[string]any) {
		for method, op := range item.(map[string]any) {
			if method == "parameters" {
				continue
			}
			documented = append(documented, strings.ToUpper(method)+" "+path)
			id, _ := at(op, "operationId").(string)
			if id == "" || ids[id] || at(op, "summary") == nil || at(op, "responses", "default") == nil {
				t.Errorf("%s %s: the operation is incomplete, or its id is taken", method, path)
			}
			ids[id] = true
			said := slices.Concat(parameters(doc, item), parameters(doc, op))
			for _, word := range strings.Split(path, "/") {
				if name, ok := strings.CutPrefix(word, "{"); ok && !slices.Contains(said, "path "+strings.TrimSuffix(name, "}")) {
					t.Errorf("%s %s: the parameter %s is not said", method, path, word)
				}
			}
		}
	}
	served := (&api{}).routes().patterns
	slices.Sort(documented)
	slices.Sort(served)
	if !slices.Equal(documented, served) {
		t.Errorf("documented:\n%s\nserved:\n%s", strings.Join(documented, "\n"), strings.Join(served, "\n"))
	}
}

// parameters are the places and names of what a path or an operation declares.
func parameters(doc map[string]any, of any) (all []string) {
	list, _ := at(of, "parameters").([]any)
	for _, p := range list {
		if ref, ok := at(p, "$ref").(string); ok {
			p = at(doc, strings.Split(strings.TrimPrefix(ref, "#/"), "/")...)
		}
		in, _ := at(p, "in").(string)
		name, _ := at(p, "name").(string)
		all = append(all, in+" "+name)
	}
	return all
}

func TestOpenAPIReferencesLeadSomewhereAndAllIsUsed(t *testing.T) {
	doc := document(t)
	used := map[string]bool{}
	var walk func(v any)
	walk = func(v any) {
		switch v := v.(type) {
		case map[string]any:
			if ref, ok := v["$ref"].(string); ok {
				used[ref] = true
				if at(doc, strings.Split(strings.TrimPrefix(ref, "#/"), "/")...) == nil {
					t.Errorf("%s leads nowhere", ref)
				}
			}
			for _, sub := range v {
				walk(sub)
			}
		case []any:
			for _, sub := range v {
				walk(sub)
			}
		}
	}
	walk(doc)
	for kind, things := range at(doc, "components").(map[string]any) {
		for name := range things.(map[string]any) {
			// An event is the data of a text stream, which has no schema to refer from.
			if ref := "#/components/" + kind + "/" + name; kind != "securitySchemes" && name != "Event" && !used[ref] {
				t.Errorf("%s is not used", ref)
			}
		}
	}
}

func TestOpenAPIHasTheFieldsThatTravel(t *testing.T) {
	doc := document(t)
	hidden := map[string]bool{"exporter": true, "der": true} // taken out before they are told
	for _, v := range []any{
		admin.Device{}, admin.DeviceDetail{}, admin.Denial{}, admin.Disconnected{}, admin.Event{}, admin.Group{}, admin.GroupDetail{}, admin.Member{},
		admin.Outcome{}, admin.OuterCounts{}, admin.Progress{}, admin.QueuedSignal{}, admin.Signal{}, admin.Summary{}, session.OuterCert{}, session.OuterReport{},
	} {
		typ := reflect.TypeOf(v)
		schema := at(doc, "components", "schemas", typ.Name())
		properties, _ := at(schema, "properties").(map[string]any)
		required, _ := at(schema, "required").([]any)
		seen := 0
		for _, f := range reflect.VisibleFields(typ) {
			name, options, _ := strings.Cut(f.Tag.Get("json"), ",")
			if name == "" || name == "-" || hidden[name] {
				continue
			}
			seen++
			if properties[name] == nil {
				t.Errorf("%s: no property %s", typ.Name(), name)
			}
			if may := strings.HasPrefix(options, "omit"); may == slices.Contains(required, any(name)) {
				t.Errorf("%s.%s: required and left out when empty, or neither", typ.Name(), name)
			}
		}
		if seen != len(properties) {
			t.Errorf("%s has %d fields, and %d properties", typ.Name(), seen, len(properties))
		}
	}
}
