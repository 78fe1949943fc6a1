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

{{/* A quantity of Kubernetes as a number: 500m is 0.5. */}}
{{- define "vxland.number" -}}
{{- $suffix := regexFind "[a-zA-Z]*$" . -}}
{{- $factors := dict "" 1.0 "m" 0.001 "k" 1e3 "M" 1e6 "G" 1e9 "T" 1e12 "P" 1e15 "E" 1e18 -}}
{{- $binary := dict "Ki" 1024.0 "Mi" 1048576.0 "Gi" 1073741824.0 "Ti" 1099511627776.0 "Pi" 1125899906842624.0 "Ei" 1152921504606846976.0 -}}
{{- mulf (float64 (trimSuffix $suffix .)) (get (merge $factors $binary) $suffix) -}}
{{- end }}

{{/* Combinations that the schema cannot express. */}}
{{- define "vxland.check" -}}
{{- range $name, $limit := .Values.resources.limits -}}
{{- $request := get ($.Values.resources.requests | default dict) $name | toString -}}
{{- if and $request (lt (float64 (include "vxland.number" (toString $limit))) (float64 (include "vxland.number" $request))) -}}
{{- fail (printf "resources.limits.%s: %v: write %s or more, which resources.requests.%s is, or less there" $name $limit $request $name) -}}
{{- end -}}
{{- end -}}
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
