package daemon

import (
	"net/http"
	"time"

	"github.com/atls-ws/atls-ws/server"
)

// status is what the service "http" tells a device when the configuration has
// none of that name: who it is to the server.
func status(w http.ResponseWriter, r *http.Request) {
	device, ok := server.Device(r.Context())
	switch {
	case !ok || r.URL.Path != "/":
		http.NotFound(w, r)
	case r.Method != http.MethodGet && r.Method != http.MethodHead:
		w.Header().Set("Allow", "GET, HEAD")
		http.Error(w, "method not allowed", http.StatusMethodNotAllowed)
	default:
		told := map[string]any{"device": device, "time": time.Now().UTC()}
		if s, ok := server.FromContext(r.Context()); ok { // a peer of atls-http/1 has none
			told["session"], told["since"] = s.ID(), s.Opened().UTC()
		}
		reply(w, http.StatusOK, told)
	}
}
