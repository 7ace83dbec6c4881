package main

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"

	"github.com/atls-ws/atls-ws/client"
	"github.com/atls-ws/atls-ws/internal/config"
)

const loginNext = "as in http://user:password@host:port (or https, socks5), in ATLS_WS_PROXY, HTTPS_PROXY or ALL_PROXY, or as proxy in the configuration file"

// explainProxy is about a proxy that the device was told to use; nil when it is
// about something else. The error keeps the proxy's own words.
func explainProxy(err error, up *client.CarrierError, cfg *config.Device) error {
	var verify *tls.CertificateVerificationError
	var socks *net.OpError
	say := func(what string, err error, next string) error {
		return withNext(fmt.Errorf("%s: %w", what, err), next)
	}
	switch text := err.Error(); {
	case up.Op == "proxy":
		return explainConnect(up, cfg)
	case strings.Contains(text, "https proxy") && errors.As(err, &verify):
		return say("the certificate of the proxy does not verify", rootCause(err, up),
			"name its CA with --outer-roots; it has to verify whatever --outer says, for the proxy's password goes through it")
	case strings.Contains(text, "proxyconnect"):
		return say("the proxy cannot be reached", rootCause(err, up), "check --proxy, or the environment's HTTPS_PROXY; --proxy direct uses none")
	case errors.As(err, &socks) && strings.HasPrefix(socks.Op, "socks"):
		switch {
		case strings.Contains(text, "no acceptable authentication methods"):
			return say("the proxy wants a login", socks, "give it user and password, "+loginNext)
		case strings.Contains(text, "authentication failed"):
			return say("the proxy does not accept the user and password", socks, "correct them, "+loginNext)
		}
		return say("the proxy does not reach the server", socks, "check host and port in "+cfg.URL+", and ask the proxy's owner to let them through")
	}
	return nil
}

// explainConnect is about a proxy's answer to CONNECT.
func explainConnect(up *client.CarrierError, cfg *config.Device) error {
	say := func(what, next string) error { return withNext(fmt.Errorf("%s: %w", what, up), next) }
	switch up.StatusCode {
	case http.StatusProxyAuthRequired, http.StatusUnauthorized: // tinyproxy says the second to a wrong password
		if strings.Contains(up.Error(), "without a login") {
			return say("the proxy wants a login", "give it user and password, "+loginNext)
		}
		return say("the proxy does not accept the user and password", "correct them, "+loginNext)
	case http.StatusInternalServerError, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return say("the proxy does not reach the server", "check host and port in "+cfg.URL+", and that the server runs")
	case http.StatusNotFound, http.StatusMethodNotAllowed, http.StatusNotImplemented, http.StatusBadRequest, http.StatusOK:
		return say("what is named as the proxy is none for CONNECT", "check --proxy, or the environment's HTTPS_PROXY")
	}
	return say("the proxy does not let the connection through", "ask the proxy's owner to allow CONNECT to the host and port of "+cfg.URL)
}
