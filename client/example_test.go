package client_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log"
	"net/http"
	"os"

	"github.com/atls-ws/atls-ws/client"
)

// A device that handles a signal and offers a service.
func Example() {
	cert, err := tls.LoadX509KeyPair("pki/device-device-1.pem", "pki/device-device-1-key.pem")
	if err != nil {
		log.Fatal(err)
	}
	ca, err := os.ReadFile("pki/ca.pem")
	if err != nil {
		log.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca)
	c, err := client.New(&client.Config{
		URL: "https://cloud.example",
		TLS: &tls.Config{RootCAs: roots, ServerName: "atls-ws", Certificates: []tls.Certificate{cert}},
	})
	if err != nil {
		log.Fatal(err)
	}
	c.OnSignal("reboot", func(_ context.Context, s client.Signal) (string, error) {
		return "rebooting in a minute", nil // the ack's text
	})
	web, err := c.Listen("web")
	if err != nil {
		log.Fatal(err)
	}
	go func() { log.Print(http.Serve(web, http.FileServer(http.Dir("status")))) }()
	log.Fatal(c.Run(context.Background())) // connects, serves, reconnects
}

// One session, for a program that does not want to stay connected.
func ExampleDial() {
	var inner *tls.Config // RootCAs, ServerName, Certificates
	s, err := client.Dial(context.Background(), &client.Config{URL: "https://cloud.example", TLS: inner})
	if err != nil {
		log.Fatal(err)
	}
	reply, err := s.Signal(context.Background(), client.Signal{Name: "measured", Data: []byte("21.5 C")})
	fmt.Println(reply, err)
	_ = s.Close()
}

// A bundle with which every HTTPS client of the device works behind a middlebox
// whose authority the service's operator has configured.
func ExampleBootstrap() {
	var inner *tls.Config // RootCAs, ServerName, Certificates
	trust, err := client.Bootstrap(context.Background(),
		&client.Config{URL: "https://cloud.example", TLS: inner},
		&client.BootstrapOptions{File: "/var/lib/device/bundle.pem"})
	if errors.Is(err, client.ErrNoAnchors) {
		log.Fatal("tell the service whose network this is: ", err)
	} else if err != nil {
		log.Fatal(err) // a bundle that was there is as it was
	}
	log.Print("behind ", trust.Issuer, ", with ", len(trust.Anchors), " anchors")
}

// Ordinary requests that a middlebox passes and cannot read, outside the session
// and perhaps answered by another node than the one that holds it.
func ExampleClient_SealedTransport() {
	var inner *tls.Config // RootCAs, ServerName, Certificates
	c, err := client.New(&client.Config{URL: "https://cloud.example", TLS: inner})
	if err != nil {
		log.Fatal(err)
	}
	go func() { log.Print(c.Run(context.Background())) }()
	tr := c.SealedTransport(nil)
	defer tr.CloseIdleConnections()
	resp, err := (&http.Client{Transport: tr}).Get("https://api.cloud.example/orders/7") // server.OpenSealed answers
	if err != nil {
		log.Print(err)
		return
	}
	_ = resp.Body.Close()
}
