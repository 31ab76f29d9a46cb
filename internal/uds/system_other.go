//go:build !linux

package uds

import "io/fs"

// maxPath is the maximum length of a socket's path, in bytes: the BSDs' sun_path without its final
// NUL.
const maxPath = 103

// limitMode does nothing: only Linux changes the mode of a socket without a file.
// The file has the bits that the umask leaves until Listen sets its mode.
func limitMode(uintptr, fs.FileMode) error { return nil }

// credentials are known on Linux only, so on other systems every peer is a User.
func credentials(uintptr) (pid, uid int, known bool) { return -1, -1, false }
