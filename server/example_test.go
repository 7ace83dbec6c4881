package server_test

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log"
	"net/http"
	"os"
	"time"

	"github.com/atls-ws/atls-ws/server"
)

// A push-capable service beside whatever else the program serves.
func Example() {
	cert, err := tls.LoadX509KeyPair("pki/server.pem", "pki/server-key.pem")
	if err != nil {
		log.Fatal(err)
	}
	ca, err := os.ReadFile("pki/ca.pem")
	if err != nil {
		log.Fatal(err)
	}
	devices := x509.NewCertPool()
	devices.AppendCertsFromPEM(ca)
	s, err := server.New(&server.Config{TLS: &tls.Config{Certificates: []tls.Certificate{cert}, ClientCAs: devices}})
	if err != nil {
		log.Fatal(err)
	}
	http.Handle(server.DefaultPath, s)
	http.HandleFunc("POST /reboot/{device}", func(w http.ResponseWriter, r *http.Request) {
		reply, err := s.Push(r.Context(), r.PathValue("device"), server.Signal{Name: "reboot"})
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
			return
		}
		_, _ = fmt.Fprintln(w, reply)
	})
	web := &http.Server{Addr: ":443", ReadHeaderTimeout: 10 * time.Second, ReadTimeout: 30 * time.Second}
	log.Fatal(web.ListenAndServeTLS("web.pem", "web-key.pem"))
}

// A web server that answers what devices seal with the keys of their sessions. It
// may be another process than the one that holds the sessions, with a KeyStore
// that both share.
func ExampleOpenSealed() {
	var inner *tls.Config // Certificates, ClientCAs
	keys := server.NewMemoryKeys(0)
	s, err := server.New(&server.Config{TLS: inner, Keys: keys})
	if err != nil {
		log.Fatal(err)
	}
	http.Handle(server.DefaultPath, s)
	http.Handle("/orders/", server.OpenSealed(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		device, _ := server.Device(r.Context())
		_, _ = fmt.Fprintln(w, "orders of", device)
	}), keys))
}
