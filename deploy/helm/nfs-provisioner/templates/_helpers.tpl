{{/* The name that selectors have. It is that of the chart this one succeeds, because selectors cannot be changed; or the alias
     that another chart depends on this one by. */}}
{{- define "nfs-provisioner.unlimitedName" -}}
{{- .Values.nameOverride | default (ternary "nfs-subdir-external-provisioner" .Chart.Name (eq .Chart.Name "nfs-provisioner")) -}}
{{- end -}}

{{- define "nfs-provisioner.name" -}}
{{- include "nfs-provisioner.unlimitedName" . | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{- define "nfs-provisioner.fullname" -}}
{{- $name := include "nfs-provisioner.unlimitedName" . -}}
{{- $full := ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name) -}}
{{- .Values.fullnameOverride | default $full | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{- define "nfs-provisioner.selector" -}}
app: {{ include "nfs-provisioner.name" . | quote }}
release: {{ .Release.Name | quote }}
{{- end -}}

{{- define "nfs-provisioner.labels" -}}
{{- $labels := dict "chart" (printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63) "heritage" .Release.Service -}}
{{- $own := include "nfs-provisioner.selector" . | fromYaml -}}
{{- toYaml (merge $own $labels (.Values.labels | default dict)) -}}
{{- end -}}

{{- define "nfs-provisioner.podLabels" -}}
{{- toYaml (merge (include "nfs-provisioner.selector" . | fromYaml) (.Values.labels | default dict)) -}}
{{- end -}}

{{- define "nfs-provisioner.serviceAccount" -}}
{{- $unnamed := "default" -}}
{{- if include "nfs-provisioner.is" .Values.serviceAccount.create -}}
{{- $unnamed = include "nfs-provisioner.fullname" . -}}
{{- end -}}
{{- .Values.serviceAccount.name | default $unnamed -}}
{{- end -}}

{{- define "nfs-provisioner.provisioner" -}}
{{- .Values.storageClass.provisionerName | default (printf "cluster.local/%s" (include "nfs-provisioner.fullname" .)) -}}
{{- end -}}

{{/* "true" if a value says so, as a boolean or in words; else nothing. */}}
{{- define "nfs-provisioner.is" -}}
{{- if eq (. | toString | lower) "true" }}true{{ end -}}
{{- end -}}

{{/* The same of a switch that is on by default, which a null in a values file takes away. */}}
{{- define "nfs-provisioner.isOrUnset" -}}
{{- if kindIs "invalid" . }}true{{ else }}{{ include "nfs-provisioner.is" . }}{{ end -}}
{{- end -}}

{{/* Refuses what a schema cannot: values that mean two things, or nothing, because of what else is set. */}}
{{- define "nfs-provisioner.check" -}}
{{- range $section := list "image" "nfs" "storageClass" "leaderElection" "rbac" "serviceAccount" "podDisruptionBudget" "usage" "doctor" "http" "monitoring" "openshift" "networkPolicy" "test" -}}
{{- if not (kindIs "map" (index $.Values $section)) -}}
{{- fail (printf "the values have no section %s: leave it out of your values instead of leaving it empty, and upgrade with --reset-then-reuse-values instead of --reuse-values, which leaves out what is new in this chart" $section) -}}
{{- end -}}
{{- end -}}
{{- include "nfs-provisioner.checkExports" . -}}
{{- range $path := list "storageClass.create" "storageClass.defaultClass" "rbac.create" "serviceAccount.create" "podDisruptionBudget.enabled" "buildMode" -}}
{{- $value := $.Values -}}
{{- range splitList "." $path -}}
{{- $value = index $value . -}}
{{- end -}}
{{- if and (kindIs "string" $value) (eq (lower $value) "false") -}}
{{- fail (printf "%s is %q in quotes, which the chart of nfs-subdir-external-provisioner took for true: write true or false without quotes" $path $value) -}}
{{- end -}}
{{- end -}}
{{- with .Values.storageClass -}}
{{- if include "nfs-provisioner.is" .create -}}
{{- $removes := has (toString .archiveOnDelete) (list "false" "False" "FALSE" "f" "F" "0") -}}
{{- $on := ternary "" (toString .onDelete) (or (kindIs "invalid" .onDelete) (eq (toString .onDelete) "")) -}}
{{- if kindIs "bool" .onDelete -}}
{{- $on = ternary "true" "" .onDelete -}}
{{- end -}}
{{- $word := $on | trim | lower -}}
{{- if and $on (has $word (list "true" "false")) $removes -}}
{{- fail (printf "storageClass.onDelete is %s and archiveOnDelete false: nfs-subdir-external-provisioner takes no notice of such an onDelete and removes directories, nfs-provisioner takes it for a mistake and archives them. Say delete, retain or archive, and delete the class %s before you upgrade: its parameters cannot be changed" $on .name) -}}
{{- else if and $on (not (has $word (list "delete" "retain" "archive" "true" "false"))) -}}
{{- fail (printf "storageClass.onDelete is %q: it must be delete, retain or archive, or unset. If the class %s is there already, delete it before you upgrade: its parameters cannot be changed" $on .name) -}}
{{- else if and (eq $word "delete") (ne $on "delete") (not $removes) -}}
{{- fail (printf "storageClass.onDelete is %q: nfs-subdir-external-provisioner takes no notice of it in this spelling and archives directories, nfs-provisioner would remove them. Say delete or archive, and delete the class %s before you upgrade: its parameters cannot be changed" $on .name) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* What the program would refuse at its start, when an earlier one has ended already. */}}
{{- define "nfs-provisioner.checkExports" -}}
{{- $names := list "default" -}}
{{- range .Values.exports -}}
{{- if has .name $names -}}
{{- fail (printf "exports has the name %q a second time; the export under nfs is called \"default\"" .name) -}}
{{- end -}}
{{- $names = append $names .name -}}
{{- end -}}
{{- if include "nfs-provisioner.is" .Values.storageClass.create -}}
{{- range .Values.storageClass.export | default "" | splitList "," -}}
{{- if not (has (trim .) (append $names "")) -}}
{{- fail (printf "storageClass.export names %q, which is none of the exports (%s)" (trim .) (join ", " $names)) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* The access modes of the volumes and claims that mount options make. */}}
{{- define "nfs-provisioner.accessModes" -}}
{{- $modes := .Values.storageClass.accessModes | default "ReadWriteOnce" -}}
{{- toJson (ternary $modes (list $modes) (kindIs "slice" $modes)) -}}
{{- end -}}

{{/* The file that tells the program of the exports besides that of nfs; nothing if there are none. */}}
{{- define "nfs-provisioner.exports" -}}
{{- range .Values.exports }}
- name: {{ .name | quote }}
  server: {{ .server | quote }}
  path: {{ .path | quote }}
  mount: /exports/{{ .name }}
{{- end }}
{{- end -}}

{{/* A values file made for the other chart may name the other program's image, which has no probes. */}}
{{- define "nfs-provisioner.image" -}}
{{- $tag := .Values.image.tag -}}
{{- if kindIs "float64" $tag -}}
{{- if ne (float64 (int64 $tag)) $tag -}}
{{- fail (printf "image.tag is the number %v, of which YAML drops zeros at the end: write it in quotes" $tag) -}}
{{- end -}}
{{- $tag = int64 $tag -}}
{{- end -}}
{{- $tag = ternary .Chart.AppVersion (toString $tag) (or (kindIs "invalid" $tag) (eq (toString $tag) "")) -}}
{{- if hasSuffix "/nfs-subdir-external-provisioner" (printf "/%s" .Values.image.repository) -}}
{{- fail (printf "image.repository is that of the program to be replaced (%s): leave image out, or name your copy of nfs-provisioner" .Values.image.repository) -}}
{{- end -}}
{{- if regexMatch "^v4\\.0\\.[0-9]+$" $tag -}}
{{- fail (printf "image.tag is that of the program to be replaced (%s): leave it out" $tag) -}}
{{- end -}}
{{- with .Values.image.digest -}}
{{ $.Values.image.repository }}@{{ . }}
{{- else -}}
{{ .Values.image.repository }}:{{ $tag }}
{{- end -}}
{{- end -}}

{{/* Values that leave it empty get the profile all the same; those that take the profile away leave a map without it. */}}
{{- define "nfs-provisioner.podSecurityContext" -}}
{{- ternary .Values.podSecurityContext (dict "seccompProfile" (dict "type" "RuntimeDefault")) (kindIs "map" .Values.podSecurityContext) | toYaml -}}
{{- end -}}

{{/* The API server takes no allowPrivilegeEscalation: false beside what implies the escalation. Who is not root has no use for
     FOWNER, which the standard "restricted" forbids. */}}
{{- define "nfs-provisioner.securityContext" -}}
{{- $context := .Values.securityContext | default dict -}}
{{- $user := dict -}}
{{- range $where := list (include "nfs-provisioner.podSecurityContext" . | fromYaml) $context -}}
{{- range $field := list "runAsUser" "runAsNonRoot" -}}
{{- if not (kindIs "invalid" (index $where $field)) -}}
{{- $_ := set $user $field (index $where $field) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- $isRoot := ternary (eq (int64 $user.runAsUser) 0) (not $user.runAsNonRoot) (hasKey $user "runAsUser") -}}
{{- if and (not $isRoot) (eq (dig "capabilities" "add" list $context | toJson) "[\"FOWNER\"]") -}}
{{- $context = merge (dict "capabilities" (omit $context.capabilities "add")) (omit $context "capabilities") -}}
{{- end -}}
{{- $added := dig "capabilities" "add" list $context | default list -}}
{{- if or $context.privileged (has "SYS_ADMIN" $added) (has "CAP_SYS_ADMIN" $added) -}}
{{- $context = omit $context "allowPrivilegeEscalation" -}}
{{- end -}}
{{- toYaml $context -}}
{{- end -}}

{{/* A quantity as a number. */}}
{{- define "nfs-provisioner.quantity" -}}
{{- $units := dict "" 1.0 "n" 1e-9 "u" 1e-6 "m" 0.001 "k" 1e3 "Ki" 1024.0 "M" 1e6 "Mi" 1048576.0 "G" 1e9 "Gi" 1073741824.0 -}}
{{- if kindIs "string" . -}}
{{- mulf (regexFind "^[0-9.]+" . | float64) (get $units (regexFind "[A-Za-z]*$" .) | default 1e12) -}}
{{- else -}}
{{- float64 . -}}
{{- end -}}
{{- end -}}

{{/* A request of these values' own gives way to a lower limit; Kubernetes takes that for the request then. */}}
{{- define "nfs-provisioner.resources" -}}
{{- $resources := .Values.resources | default dict -}}
{{- $requests := $resources.requests | default dict -}}
{{- $limits := $resources.limits | default dict -}}
{{- range $name, $own := dict "cpu" "10m" "memory" "24Mi" -}}
{{- $limit := index $limits $name -}}
{{- $isOwn := eq (index $requests $name | toString) $own -}}
{{- if and $limit $isOwn (lt (include "nfs-provisioner.quantity" $limit | float64) (include "nfs-provisioner.quantity" $own | float64)) -}}
{{- $requests = omit $requests $name -}}
{{- end -}}
{{- end -}}
{{- with $requests -}}
{{- $resources = merge (dict "requests" $requests) (omit $resources "requests") -}}
{{- else -}}
{{- $resources = omit $resources "requests" -}}
{{- end -}}
{{- with $resources -}}
{{- toYaml . -}}
{{- end -}}
{{- end -}}

{{/* The settings, as variables. */}}
{{- define "nfs-provisioner.environment" -}}
- name: PROVISIONER_NAME
  value: {{ include "nfs-provisioner.provisioner" . | quote }}
- name: NFS_SERVER
  value: {{ required "nfs.server is not set: it is the host name or address of the NFS server" .Values.nfs.server | quote }}
- name: NFS_PATH
  value: {{ .Values.nfs.path | quote }}
{{- if .Values.exports }}
- name: EXPORTS_FILE
  value: /etc/nfs-provisioner/exports.yaml
{{- end }}
{{- if not (include "nfs-provisioner.isOrUnset" .Values.leaderElection.enabled) }}
- name: ENABLE_LEADER_ELECTION
  value: "false"
{{- end }}
{{- if ne .Values.leaderElection.lock "auto" }}
- name: LEADER_ELECTION_LOCK
  value: {{ .Values.leaderElection.lock | quote }}
{{- end }}
{{- /* YAML reads on and off as true and false. */}}
{{- $check := get (dict "true" "on" "false" "off") (.Values.mountCheck | toString | lower) | default .Values.mountCheck }}
{{- if and .Values.buildMode (eq $check "auto") }}
{{- $check = "off" }}
{{- end }}
{{- if ne $check "auto" }}
- name: NFS_MOUNT_CHECK
  value: {{ $check | quote }}
{{- end }}
{{- if include "nfs-provisioner.is" .Values.shareAcrossNamespaces }}
- name: SHARE_ACROSS_NAMESPACES
  value: "true"
{{- end }}
{{- with int64 .Values.usage.callsPerSecond }}
- name: USAGE_CALLS_PER_SECOND
  value: {{ . | quote }}
{{- end }}
- name: HTTP_ADDR
  value: {{ ternary (printf "%s:%d" .Values.http.address (int .Values.http.port)) "" (eq "true" (include "nfs-provisioner.isOrUnset" .Values.http.enabled)) | quote }}
{{- if ne .Values.logLevel "info" }}
- name: RUST_LOG
  value: "warn,nfs_provisioner={{ .Values.logLevel }},kube_client=off,kube_runtime=off"
{{- end }}
{{- if ne .Values.logFormat "auto" }}
- name: LOG_FORMAT
  value: {{ .Values.logFormat | quote }}
{{- end }}
{{- with .Values.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* Where the exports and the file that tells of them are. */}}
{{- define "nfs-provisioner.mounts" -}}
- name: {{ .Values.nfs.volumeName | quote }}
  mountPath: /persistentvolumes
{{- range .Values.exports }}
- name: export-{{ .name }}
  mountPath: /exports/{{ .name }}
{{- end }}
{{- if .Values.exports }}
- name: exports
  mountPath: /etc/nfs-provisioner
  readOnly: true
{{- end }}
{{- end -}}
