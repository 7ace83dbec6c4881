package server

// SetTicketKeys replaces the keys of the inner session tickets: the first
// encrypts new ones, all decrypt. Servers that have the same keys let devices
// resume at any of them (RFC 8446, 4.6.1); who has the keys can pass for any
// device. Without a call a server has keys of its own, made anew each day. keys
// must not be empty. It may be called at any time.
func (s *Server) SetTicketKeys(keys [][32]byte) { s.acceptor.SetTicketKeys(keys) }
