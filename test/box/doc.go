// Package box runs edged on a whole arm64 box: Debian with its own kernel, systemd and redis-server
// in an emulated machine, and the commands of docs/DEPLOY.md exactly as printed. `make
// test-arm64-system` runs it, for every release. It needs qemu and debootstrap, no root, and
// Debian's mirror the first time; that machine is kept in $XDG_CACHE_HOME/edged.
//
// The machine is some fifty times slower than this one, so every wait is long.
package box
