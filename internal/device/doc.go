// Package device is the device role of the atls-ws command: it connects as a
// configuration says, runs a command for every signal, and lets the server
// reach the configured services. A program of one's own uses package client
// instead.
package device
