"""flannel's registry in etcd v3, through etcd's JSON gateway."""
