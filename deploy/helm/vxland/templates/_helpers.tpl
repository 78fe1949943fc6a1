{{/* Labels of every object. */}}
{{- define "vxland.labels" -}}
k8s-app: vxland
app: vxland
{{- end }}

{{/* The image, by digest or tag. */}}
{{- define "vxland.image" -}}
{{- with .Values.image -}}
{{- if .digest -}}
{{ .repository }}@{{ .digest }}
{{- else -}}
{{ .repository }}:{{ .tag | default $.Chart.AppVersion }}
{{- end -}}
{{- end -}}
{{- end }}

{{/* A container that needs no privilege at all. */}}
{{- define "vxland.unprivileged" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
seccompProfile:
  type: RuntimeDefault
{{- end }}

{{/* Quantities as strings: server-side apply takes no numbers. */}}
{{- define "vxland.resources" -}}
{{- $made := dict -}}
{{- range $kind, $quantities := .Values.resources -}}
{{- $strings := dict -}}
{{- range $name, $quantity := $quantities -}}
{{- $_ := set $strings $name (toString $quantity) -}}
{{- end -}}
{{- $_ := set $made $kind $strings -}}
{{- end -}}
{{ toYaml $made }}
{{- end }}

{{/* flannel's net-conf.json. */}}
{{- define "vxland.netConf" -}}
{{- $backend := dict "Type" .Values.backend.type "VNI" .Values.backend.vni "Port" .Values.backend.port -}}
{{- if .Values.backend.mtu -}}
{{- $_ := set $backend "MTU" .Values.backend.mtu -}}
{{- end -}}
{{- if .Values.backend.directRouting -}}
{{- $_ := set $backend "DirectRouting" true -}}
{{- end -}}
{{- $conf := dict "EnableNFTables" .Values.nftables "Backend" $backend -}}
{{- if .Values.network.ipv4 -}}
{{- $_ := set $conf "Network" .Values.network.ipv4 -}}
{{- else -}}
{{- $_ := set $conf "EnableIPv4" false -}}
{{- end -}}
{{- if .Values.network.ipv6 -}}
{{- $_ := set $conf "EnableIPv6" true -}}
{{- $_ := set $conf "IPv6Network" .Values.network.ipv6 -}}
{{- end -}}
{{ toPrettyJson $conf }}
{{- end }}

{{/* Whether the tc programs of the fast path may be loaded; YAML reads a bare off as false. */}}
{{- define "vxland.fastPath" -}}
{{- $datapath := (.Values.config | default dict).datapath | default dict -}}
{{- if not (has ($datapath.fast_path | toString) (list "off" "false")) -}}true{{- end -}}
{{- end }}

{{/* Whether vxland lists pods, for the names that kube.pod_names shows. */}}
{{- define "vxland.podNames" -}}
{{- $kube := (.Values.config | default dict).kube | default dict -}}
{{- if $kube.pod_names }}true{{ end -}}
{{- end }}

{{/* Combinations that the schema cannot express. */}}
{{- define "vxland.check" -}}
{{- if .Values.configMap.create -}}
{{- if not (or .Values.network.ipv4 .Values.network.ipv6) -}}
{{- fail "network.ipv4, network.ipv6: both are empty: write the pods' network, such as 10.244.0.0/16" -}}
{{- end -}}
{{- $least := ternary 1350 118 (not (empty .Values.network.ipv6)) -}}
{{- if and .Values.backend.mtu (lt (int .Values.backend.mtu) $least) -}}
{{- fail (printf "backend.mtu: %d: write the underlay's MTU, %d or more, or 0 for the interface's" (int .Values.backend.mtu) $least) -}}
{{- end -}}
{{- end -}}
{{- end }}
