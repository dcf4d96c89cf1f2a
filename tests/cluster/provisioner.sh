#!/usr/bin/env bash
# Provisions the claims of the class "standard": a directory of the node for each, as a volume of the type `local`.
# The two watches give one line an event; what is done on it can be done twice.
set -uo pipefail
export KUBECONFIG=$1
directory=/var/lib/volumes

provision() {
  local namespace=$1 name=$2 uid=$3 size=$4 mode=$5 volume=pvc-$3
  mkdir -p -m 0777 "$directory/$volume"
  kubectl apply -f - <<Y
apiVersion: v1
kind: PersistentVolume
metadata:
  name: $volume
  annotations: { pv.kubernetes.io/provisioned-by: tests.stash-fs/local }
spec:
  storageClassName: standard
  capacity: { storage: "$size" }
  accessModes: [$mode]
  volumeMode: Filesystem
  persistentVolumeReclaimPolicy: Delete
  claimRef: { apiVersion: v1, kind: PersistentVolumeClaim, namespace: "$namespace", name: "$name", uid: "$uid" }
  local: { path: "$directory/$volume" }
  nodeAffinity: { required: { nodeSelectorTerms: [{ matchFields: [{ key: metadata.name, operator: In, values: [node-1] }] }] } }
Y
}

# A claim waits for a volume once the scheduler has chosen a node for its first pod. One that names a source is left to whoever knows it, as
# external-provisioner does.
claims='{{with .metadata}}{{.namespace}} {{.name}} {{.uid}}{{end}} {{.spec.resources.requests.storage}} '
claims+='{{range $i, $m := .spec.accessModes}}{{if $i}},{{end}}{{$m}}{{end}} {{.spec.storageClassName}} {{.status.phase}} '
claims+='{{with .metadata.annotations}}{{index . "volume.kubernetes.io/selected-node"}}{{end}} '
claims+='{{with .spec.dataSourceRef}}{{.kind}}{{end}}{{"\n"}}'
volumes='{{.metadata.name}} {{.spec.storageClassName}} {{.status.phase}}{{"\n"}}'

watch() { # RESOURCE TEMPLATE: until the cluster ends; the API server ends each watch after some time
  while true; do kubectl get "$1" --all-namespaces --watch -o go-template="$2" || sleep 1; done
}
watch persistentvolumeclaims "$claims" | while read -r namespace name uid size mode class phase node source; do
  [ "$class $phase $node $source" = "standard Pending node-1 " ] && provision "$namespace" "$name" "$uid" "$size" "$mode"
done &
watch persistentvolumes "$volumes" | while read -r name class phase; do
  [ "$class $phase" = "standard Released" ] && rm -rf --one-file-system "${directory:?}/$name" && kubectl delete persistentvolume "$name"
done
