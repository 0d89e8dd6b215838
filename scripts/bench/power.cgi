# The power routes as a CGI program in shell. The benchmark puts lines before this text: the
# first line of a script, KEY, and ipmitool with its options as STATUS and CHANGE.

answer() {
    printf 'Status: %s\r\nContent-Type: application/json\r\n\r\n%s' "$1" "$2"
    exit
}

[ "$HTTP_X_API_KEY" = "$KEY" ] || answer '401 Unauthorized' '{"success":false,"error":"Invalid or missing API key"}'

case "$REQUEST_METHOD $PATH_INFO" in
    "GET /status")
        output=$($STATUS power status 2>/dev/null)
        case "$output" in
            "Chassis Power is on" | "Chassis Power is off")
                answer '200 OK' "{\"success\":true,\"power_state\":\"${output##* }\",\"raw_output\":\"$output\"}"
                ;;
        esac
        answer '502 Bad Gateway' '{"success":false,"error":"ipmitool failed","power_state":"unknown"}'
        ;;
    "POST /on") words="power on" line="Chassis Power Control: Up/On" ;;
    "POST /off") words="power soft" line="Chassis Power Control: Soft" ;;
    "POST /force-off") words="power off" line="Chassis Power Control: Down/Off" ;;
    "POST /cycle") words="power cycle" line="Chassis Power Control: Cycle" ;;
    "POST /reset") words="power reset" line="Chassis Power Control: Reset" ;;
    *) answer '404 Not Found' '{"success":false,"error":"Endpoint not found"}' ;;
esac
output=$($CHANGE $words 2>/dev/null)
[ "$output" = "$line" ] || answer '502 Bad Gateway' "{\"success\":false,\"error\":\"ipmitool failed\",\"command\":\"$words\"}"
answer '200 OK' "{\"success\":true,\"output\":\"$output\",\"command\":\"$words\"}"
