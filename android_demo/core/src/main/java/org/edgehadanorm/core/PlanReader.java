package org.edgehadanorm.core;

import java.util.ArrayList;
import java.util.Collections;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.OptionalDouble;

/** Makes a plan of what a manifest says; refuses what the loop could not run. */
final class PlanReader {
    private static final String[] KEYS = {"noise_scale", "guidance", "rows"};
    private static final String[] NUMBERS = {"timestep", "input_scale", "a"};
    private static final String[] LISTS = {"b", "b_text", "b_negative", "c"};

    private PlanReader() {
    }

    /** Throws BundleException for a plan that the loop could not run. */
    static Plan read(Object json) throws BundleException {
        Map<?, ?> plan = object(json, "an object is expected");
        List<String> missing = new ArrayList<>();
        for (String key : KEYS) {
            if (!plan.containsKey(key)) {
                missing.add(key);
            }
        }
        if (!missing.isEmpty()) {
            throw wrong(Text.some(missing, missing.size()) + " missing");
        }
        List<?> items = list(plan.get("rows"), "rows must be a list");
        for (int k = 0; k < items.size(); k++) {
            checkForm(k, items.get(k));
        }
        Map<Integer, Plan> starts = starts(plan);
        if (items.isEmpty()) {
            throw wrong("it has no rows");
        }
        for (int k = 0; k < items.size(); k++) {
            checkLengths(k, (Map<?, ?>) items.get(k));
        }
        double noiseScale = number(plan.get("noise_scale"), "noise_scale");
        Object own = plan.get("guidance");
        OptionalDouble guidance =
                own == null ? OptionalDouble.empty() : OptionalDouble.of(number(own, "guidance"));
        List<Row> rows = new ArrayList<>();
        for (int k = 0; k < items.size(); k++) {
            rows.add(row(k, (Map<?, ?>) items.get(k)));
        }
        for (Map.Entry<Integer, Plan> start : starts.entrySet()) {
            checkStart(start.getKey(), start.getValue(), rows.size());
        }
        return new Plan(noiseScale, guidance, rows, starts);
    }

    /** Plans that begin with a known picture, by row. */
    private static Map<Integer, Plan> starts(Map<?, ?> plan) throws BundleException {
        Object given = plan.containsKey("starts") ? plan.get("starts") : Collections.emptyMap();
        if (!(given instanceof Map) || !((Map<?, ?>) given).keySet().stream().allMatch(PlanReader::isRow)) {
            throw wrong("starts must be an object of plans by row");
        }
        Map<Integer, Plan> starts = new LinkedHashMap<>();
        for (Map.Entry<?, ?> start : ((Map<?, ?>) given).entrySet()) {
            starts.put(Integer.valueOf((String) start.getKey()), read(start.getValue()));
        }
        return starts;
    }

    private static boolean isRow(Object key) {
        return ((String) key).matches("[1-9][0-9]{0,3}");
    }

    private static void checkStart(int first, Plan start, int rows) throws BundleException {
        if (first >= rows || start.steps() != rows - first || start.hasStarts()) {
            throw wrong("the start at row " + first + " is not of the rows from there on");
        }
        if (!start.startsKnown()) {
            throw wrong("known of row 0 of the start at row " + first + " is missing");
        }
    }

    private static void checkForm(int k, Object item) throws BundleException {
        Map<?, ?> row = object(item, "row " + k + " must be an object");
        for (String key : NUMBERS) {
            if (!row.containsKey(key)) {
                throw wrong("row " + k + " has no " + key);
            }
        }
        for (String key : LISTS) {
            values(k, row, key);
        }
        Object known = row.get("known");
        if (known != null && !(known instanceof List && ((List<?>) known).size() == 2)) {
            throw wrong("known of row " + k + " must be a list of two numbers");
        }
    }

    private static void checkLengths(int k, Map<?, ?> row) throws BundleException {
        for (String key : LISTS) {
            if (values(k, row, key).size() > k + 1) {
                throw wrong(key + " of row " + k + " has more than " + (k + 1) + " numbers");
            }
        }
    }

    private static Row row(int k, Map<?, ?> item) throws BundleException {
        Map<String, double[]> lists = new LinkedHashMap<>();
        for (String key : LISTS) {
            lists.put(key, numbers(values(k, item, key), key + " of row " + k));
        }
        List<Object> plain = new ArrayList<>();
        for (String key : NUMBERS) {
            plain.add(item.get(key));
        }
        boolean known = item.get("known") != null;
        if (known) {
            plain.addAll((List<?>) item.get("known"));
        }
        double[] first = numbers(plain, "row " + k);
        return new Row(first[0], first[1], first[2], lists.get("b"), lists.get("b_text"), lists.get("b_negative"),
                lists.get("c"), known ? Optional.of(new double[] {first[3], first[4]}) : Optional.empty());
    }

    /** A list of a row that may be left out. */
    private static List<?> values(int k, Map<?, ?> row, String key) throws BundleException {
        return row.containsKey(key) ? list(row.get(key), key + " of row " + k + " must be a list of numbers")
                : Collections.emptyList();
    }

    private static double[] numbers(List<?> values, String name) throws BundleException {
        double[] numbers = new double[values.size()];
        for (int i = 0; i < numbers.length; i++) {
            numbers[i] = number(values.get(i), name);
        }
        return numbers;
    }

    private static double number(Object value, String name) throws BundleException {
        double number = value instanceof Number ? ((Number) value).doubleValue() : Double.NaN;
        if (!(Math.abs(number) <= Float.MAX_VALUE)) {
            throw wrong(name + " holds something other than finite float32 numbers");
        }
        return number;
    }

    private static Map<?, ?> object(Object value, String wanted) throws BundleException {
        if (!(value instanceof Map)) {
            throw wrong(wanted + ", got " + Kind.shown(value));
        }
        return (Map<?, ?>) value;
    }

    private static List<?> list(Object value, String wanted) throws BundleException {
        if (!(value instanceof List)) {
            throw wrong(wanted);
        }
        return (List<?>) value;
    }

    private static BundleException wrong(String problem) {
        return new BundleException("plan: " + problem);
    }
}
