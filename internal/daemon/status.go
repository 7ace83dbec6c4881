package daemon

import (
	"net/http"
	"time"

	"github.com/atls-ws/atls-ws/server"
)

// status is what the service "http" tells a device when the configuration has
// none of that name: who it is to the server.
func status(w http.ResponseWriter, r *http.Request) {
	s, ok := server.FromContext(r.Context())
	switch {
	case !ok || r.URL.Path != "/":
		http.NotFound(w, r)
	case r.Method != http.MethodGet && r.Method != http.MethodHead:
		w.Header().Set("Allow", "GET, HEAD")
		http.Error(w, "method not allowed", http.StatusMethodNotAllowed)
	default:
		reply(w, http.StatusOK, map[string]any{
			"device": s.Device(), "session": s.ID(), "since": s.Opened().UTC(), "time": time.Now().UTC(),
		})
	}
}
