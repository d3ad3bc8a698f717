package org.edgehadanorm.core;

import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.function.Predicate;

/** What a value of a JSON file may be. */
interface Kind {
    /** Throws BundleException where the value at a place, such as `.image.width`, is not of this kind. */
    void check(Object value, String where) throws BundleException;

    /** Any value that passes a test; `name` says in messages what was wanted. */
    static Kind leaf(String name, Predicate<Object> test) {
        return (value, where) -> {
            if (!test.test(value)) {
                throw new BundleException((where.isEmpty() ? "the whole" : where) + " is " + shown(value) + ", not "
                        + name);
            }
        };
    }

    /** Any number of one kind. */
    static Kind list(Kind item) {
        return (value, where) -> {
            leaf("a list", List.class::isInstance).check(value, where);
            int index = 0;
            for (Object each : (List<?>) value) {
                item.check(each, where + "[" + index++ + "]");
            }
        };
    }

    /** Any number of one kind by keys of another. */
    static Kind dictionary(Kind key, Kind item) {
        return (value, where) -> {
            leaf("an object", Map.class::isInstance).check(value, where);
            for (Map.Entry<?, ?> entry : ((Map<?, ?>) value).entrySet()) {
                key.check(entry.getKey(), "a key of " + where);
                item.check(entry.getValue(), where + "['" + Text.shortened((String) entry.getKey(), 30) + "']");
            }
        };
    }

    /** An object; see Fields. */
    static Fields object() {
        return new Fields();
    }

    /** A value in a message. */
    static String shown(Object value) {
        String text = value instanceof String ? "'" + value + "'" : String.valueOf(value);
        return Text.shortened(Text.plain(text), 60);
    }

    /** An object by its keys, each with the kind of its value. Further keys are ignored. */
    final class Fields implements Kind {
        private final List<String> names = new ArrayList<>();
        private final List<Kind> kinds = new ArrayList<>();
        private final List<Boolean> nullable = new ArrayList<>();

        /** With one more key. */
        Fields with(String name, Kind kind) {
            return add(name, kind, false);
        }

        /** With one more key, whose value may be null. */
        Fields withNullable(String name, Kind kind) {
            return add(name, kind, true);
        }

        @Override
        public void check(Object value, String where) throws BundleException {
            leaf("an object", Map.class::isInstance).check(value, where);
            Map<?, ?> object = (Map<?, ?>) value;
            for (int i = 0; i < names.size(); i++) {
                String name = names.get(i);
                if (!object.containsKey(name)) {
                    throw new BundleException(where + "." + name + " is missing");
                }
                if (object.get(name) != null || !nullable.get(i)) {
                    kinds.get(i).check(object.get(name), where + "." + name);
                }
            }
        }

        private Fields add(String name, Kind kind, boolean mayBeNull) {
            names.add(name);
            kinds.add(kind);
            nullable.add(mayBeNull);
            return this;
        }
    }
}
