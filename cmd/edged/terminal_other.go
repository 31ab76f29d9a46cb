//go:build !linux

package main

import (
	"errors"
	"os"
)

// hideInput is supported on Linux only.
func hideInput(*os.File) (show func(), err error) { return nil, errors.ErrUnsupported }
