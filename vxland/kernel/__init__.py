"""Small system interfaces: capabilities, seccomp, ping sockets, and files of /proc."""
