// Package pki makes the small certificate authority of an atls-ws deployment:
// one CA, the server's inner certificate, and one client certificate a device.
//
//	ca, err := pki.NewCA("example fleet")
//	server, err := ca.Server([]string{pki.ServerName}, 0)
//	device, err := ca.Device("kettle-7", 0)
//	err = ca.Write("pki", false)
//	err = server.Write("pki", pki.ServerFile, false)
//	err = device.Write("pki", pki.DeviceFile("kettle-7"), false)
//
// Keys are ECDSA P-256. These certificates are for the inner session only and
// are distinct from the public web certificate of the outer hop.
package pki
