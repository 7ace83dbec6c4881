package main

import (
	"errors"
	"net/http"

	"github.com/atls-ws/atls-ws/client"
	"github.com/atls-ws/atls-ws/internal/config"
)

// explainEnroll says why a device has no certificate; nil when that is not it.
func explainEnroll(err error, cfg *config.Device) error {
	var no *client.EnrollError
	var alert *client.AlertError
	switch {
	case errors.Is(err, client.ErrNoIdentity):
		return withNext(err, "give --enroll-token FILE or --factory-cert and --factory-key; the service's operator makes a token with: atls-ws pki token ID")
	case errors.Is(err, client.ErrNoEnrollment):
		return withNext(err, "ask the service's operator to add enroll to the server's configuration; or have a certificate made with: atls-ws pki device ID")
	case errors.Is(err, client.ErrClock):
		return withNext(err, "set the clock of this device; then, if the certificate has really ended, remove "+cfg.Inner.Cert+" and enroll anew")
	case errors.As(err, &no) && no.StatusCode == http.StatusUnauthorized:
		return withNext(err, "ask the service's operator for another token, made with: atls-ws pki token ID; it is for one device and one key")
	case errors.As(err, &no) && no.StatusCode == http.StatusForbidden:
		return withNext(err, "ask for another id with --enroll-id, or have this one allowed in the server's enroll.devices")
	case errors.As(err, &no):
		return withNext(err, "ask the service's operator: the server's log says more, at the same time")
	case cfg.Enroll.On && errors.As(err, &alert):
		return withNext(err, "the server takes neither a device without a certificate nor this one: ask its operator for enroll.tokens or inner.factory_ca")
	}
	return nil
}
