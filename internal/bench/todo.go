//go:build unix

package main

func wan(*options) error   { return nil }
func storm(*options) error { return nil }
