//go:build unix

package main

func storm(*options) error { return nil }
