//go:build !tagged

package main

const which = "plain"
