//go:build tagged

package main

const which = "tagged"
