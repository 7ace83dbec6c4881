package session

import "sync/atomic"

// onFirstUse is a part of a session that most sessions of a large server never
// use, and that none should pay for before.
type onFirstUse[T any] struct{ p atomic.Pointer[T] }

func (o *onFirstUse[T]) get(make func() *T) *T {
	if v := o.p.Load(); v != nil {
		return v
	}
	o.p.CompareAndSwap(nil, make())
	return o.p.Load()
}
