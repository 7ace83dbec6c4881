// Package config reads the YAML files of both roles: Device and Server.
//
// Reading is strict. An unknown key, a value of the wrong type and a value that
// cannot work are errors, all of them reported at once, one a line, as
// "file:line: field: problem". A relative path is relative to the file that
// says it.
//
// The program that has flags as well reads the file, lays the flags over it and
// validates the result:
//
//	d, err := config.ReadDevice("device.yaml") // or config.DefaultDevice()
//	d.URL = *url
//	err = d.Validate()
//	inner, err := d.TLS()
package config
