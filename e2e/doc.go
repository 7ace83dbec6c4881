// Package e2e runs the built binary against real middleboxes and proxies:
// mitmproxy, squid, nginx, haproxy, tinyproxy and microsocks; against boxes of
// its own that are worse; against peers that misbehave and that are hostile; section
// by section of RFC 6455; against peers in C, Java and Python (the folder peers),
// which it builds; with a browser; and on machines whose network, DNS and disk
// fail, made of namespaces, which only root can do. Its tests
// have the build tag e2e:
//
//	go test -tags e2e ./e2e
//
// What is not installed is skipped, except where the environment
// variable CI is set. Everything listens on loopback and is ended by process id.
package e2e
